"""Wukong on hotel bookings (Antonio, de Almeida and Nunes, Data in Brief 22, 2019): 2 hotels x 3 objectives.

Command:   python scripts/train.py --config=public/hotel_bookings --workdir=runs/hotel_bookings
           --config.data.path=FOLDER
           FOLDER holds hotel_bookings.csv (plain or .gz; 119,390 rows; CC BY 4.0, doi 10.1016/j.dib.2018.11.126)
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
           Lattice and baselines against a model for each portfolio:
           python scripts/compare_consolidation.py --config=public/hotel_bookings --alone=lattice
           --together=lattice,shared_bottom,mmoe,ple,star,adatt,pepnet --seeds=0,1,2 --workdir=runs/lattice_hotel
           --output=docs/results/lattice_consolidation_hotel --config.training.epochs=10 --config.data.path=FOLDER
Data:      objectives: the booking is canceled, has a special request, takes a parking space. Domain: the hotel, which
           is a feature too. Split by day of arrival: the last fifth of the bookings tests (from 2017-04-22), the tenth
           before it validates; exact repeats share their day, so none is on both sides. Left out of the features: the
           three labels, reservation_status and its date (they tell the outcome), assigned_room_type and booking_changes
           (known late), and the year (test rows are of the last one only). A canceled booking never has a parking
           space: that is between labels, and no leak while neither is a feature.
Expected:  test AUC canceled 0.846 (City 0.854, Resort 0.853), special request 0.763 (0.759, 0.771), parking 0.855
           (0.809, 0.735); one seed, settings not searched; 25 seconds of CPU time. Logistic regression on the same
           columns: 0.835, 0.752, 0.851 from the same rows, 0.840, 0.757, 0.852 with the validation rows too.
           Another one, on one-hot ids, trained on all earlier rows and with columns that we do not know, has 0.859 for
           canceled.
"""

from ml_collections import ConfigDict

from .multi_domain_sets import SMALL_WUKONG, start_hotel_bookings, use_model

# Baselines of Lattice's training FLOPs on this set (0.63 MFLOP), within 5 %.
SIZES = {
    "shared_bottom": {"shared_hidden": (236, 88)},
    "mmoe": {"expert_hidden": (75,)},
    "ple": {"expert_hidden": (36,)},
    "star": {"star_hidden": (136, 64)},
    "adatt": {"expert_hidden": (43,)},
    "pepnet": {"tower_hidden": (80, 32)},
}


def get_config(model: str = "wukong") -> ConfigDict:
    """The run of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_hotel_bookings(), model, SMALL_WUKONG, sizes=SIZES)
