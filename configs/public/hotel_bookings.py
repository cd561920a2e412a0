"""Wukong on hotel bookings (Antonio, de Almeida and Nunes, Data in Brief 22, 2019): 2 hotels x 3 objectives.

Command:   python scripts/train.py --config=public/hotel_bookings --workdir=runs/hotel_bookings
           --config.data.path=FOLDER
           FOLDER holds hotel_bookings.csv (plain or .gz; 119,390 rows; CC BY 4.0, doi 10.1016/j.dib.2018.11.126)
           `:lattice`, `:mmoe`, `:ple`, `:star`, ... are other models (multi_domain_sets.py)
           Compare Lattice and baselines with one model per portfolio:
           python scripts/compare_consolidation.py --config=public/hotel_bookings --alone=lattice
           --together=lattice,shared_bottom,mmoe,ple,star,adatt,pepnet --seeds=0,1,2 --workdir=runs/lattice_hotel
           --output=docs/results/lattice_consolidation_hotel --config.training.epochs=10 --config.data.path=FOLDER
Data:      the objectives are that a booking is canceled, has a special request, or includes a parking space. The domain
           is the hotel, which is also a feature. Rows are split by day of arrival: the last fifth is for the test (from
           2017-04-22), the tenth before it for validation; exact duplicates have the same day, so none is on both
           sides. Features exclude the three labels, reservation_status and its date (which reveal the outcome),
           assigned_room_type and booking_changes (known late), and the year (test rows have only the last one). A
           canceled booking never has a parking space; this relation between labels is no leak, as neither is a feature.
Expected:  test AUC canceled 0.849 (City 0.856, Resort 0.855), special request 0.766 (0.760, 0.768), parking 0.862
           (0.809, 0.761); one seed, not searched; 2026-11-28, 16 seconds of CPU time. Logistic regression on the same
           columns has 0.835, 0.752, 0.851 with the same training rows and 0.840, 0.757, 0.852 with the validation rows
           added. Another logistic regression, on one-hot ids, trained on all earlier rows and with columns unknown to
           us, has 0.859 for canceled.
"""

from ml_collections import ConfigDict

from .multi_domain_sets import SMALL_WUKONG, start_hotel_bookings, use_model

# Sizes of baselines with the training FLOPs of Lattice on this set (0.63 MFLOP), within 5 %.
SIZES = {
    "shared_bottom": {"shared_hidden": (236, 88)},
    "mmoe": {"expert_hidden": (75,)},
    "ple": {"expert_hidden": (36,)},
    "star": {"star_hidden": (136, 64)},
    "adatt": {"expert_hidden": (43,)},
    "pepnet": {"tower_hidden": (80, 32)},
}


def get_config(model: str = "wukong") -> ConfigDict:
    """Returns the config of a model: "wukong", "lattice", or one of `multi_domain_sets.BASELINES`."""
    return use_model(start_hotel_bookings(), model, SMALL_WUKONG, sizes=SIZES)
