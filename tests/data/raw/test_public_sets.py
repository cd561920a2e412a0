"""Tests the public sets' schemas and configs on synthetic rows in the published layouts, without the real sets."""

import dataclasses
import gzip
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.repository import CONFIGS
from wukong_jax.clusters.assumed_schema import assume_rows
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import Schema, load_schema
from wukong_jax.training.run import build_run

NUMBERS, CATEGORIES = [f"I{i}" for i in range(1, 14)], [f"C{i}" for i in range(1, 27)]
KAGGLE_AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
TAOBAO = (
    "clk,btag_his,cate_his,brand_his,userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,"
    "shopping_level,occupation,new_user_class_level,adgroup_id,cate_id,campaign_id,customer,brand,price,pid,btag"
)


def write_csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def write_movielens_latest(folder):
    header = "label,user_id,item_id,tag_id"
    write_csv(folder / "train.csv", header, [[i % 2, i % 5, i % 7, i % 11] for i in range(40)])
    write_csv(folder / "valid.csv", header, [[1, 0, 0, 0]])
    write_csv(folder / "test.csv", header, [[0, 4, 6, 10], [1, 4, 99, 9]])


def write_micro_video(folder):
    header = "user_id,item_id,cate_id,timestamp,is_click,clicked_items,clicked_categories"
    train = [[f"u{i % 3}", 7 if i % 2 else 1000 + i, i % 4, i, i % 2, "7^9", "1^2"] for i in range(40)]
    train[0][5:] = ["", ""]
    train[1][5:] = ["^".join(str(n) for n in range(129)), "^".join(str(n % 5) for n in range(129))]
    write_csv(folder / "train.csv", header, train)
    write_csv(folder / "test.csv", header, [[f"u{i % 3}", 5000 + i, 2, i, 0, "7", "2"] for i in range(200)])


def write_kuai_video(folder):
    header = "timestamp,user_id,item_id,is_click,is_like,is_follow,pos_items,neg_items"
    train = [[i, i % 2, i, i % 2, 1, 0, "1^2", "3"] for i in range(30)]
    train[3][6:] = ["", ""]
    write_csv(folder / "train.csv", header, train)
    write_csv(folder / "test.csv", header, [[i, i % 2, 1, 0, 0, 0, "", "1^777"] for i in range(50)])


def write_taobao_ads(folder):
    def row(i, price, his=("", "", "")):
        return [i % 2, *his, f"u{i % 2}", *[0] * 8, 11, 22, 33, 44, 55, price, "430539_1007", 1]

    histories = ("2^4^2", "22^23", "55")
    train = [row(i, 100.5, histories if i else ("", "", "")) for i in range(20)]
    write_csv(folder / "train.csv", TAOBAO, train)
    write_csv(folder / "test.csv", TAOBAO, [row(i, 0.0, ("3", "99", "55")) for i in range(50)])


def write_criteo_x1(folder):
    header = ",".join(["label", *NUMBERS, *CATEGORIES])
    rows = [[i % 2, *[round(i / 40, 6)] * 13, *[100 * c + i % 5 for c in range(26)]] for i in range(40)]
    write_csv(folder / "train.csv", header, rows)
    write_csv(folder / "valid.csv", header, rows[:3])
    write_csv(folder / "test.csv", header, [[1, *["0.5"] * 13, *[9999] * 26]])


def write_criteo_terabyte(folder):
    def text(i):
        numbers = [["", "-1", "0", "25"][(i + n) % 4] for n in range(13)]
        categories = [["", "68fd1e64", f"{i:08x}"][(i + c) % 3] for c in range(26)]
        return "\t".join([str(i % 2), *numbers, *categories])

    (folder / "train").mkdir()
    (folder / "test").mkdir()
    for day in (2, 10):
        with gzip.open(folder / "train" / f"day_{day}.gz", "wt") as file:
            file.write("\n".join(text(i) for i in range(day, day + 12)) + "\n")
    (folder / "test" / "day_23").write_text("\n".join(text(i) for i in range(900, 905)) + "\n")


def write_avazu_x4(folder):
    def row(i):
        return [
            10**19 + i,
            i % 2,
            f"141021{i % 3:02d}",
            *[["", "1fbe01fe", "-1", i % 4][(i + c) % 4] for c in range(21)],
        ]

    rows = [row(i) for i in range(30)]
    with gzip.open(folder / "train.csv.gz", "wt") as file:
        file.write("\n".join([KAGGLE_AVAZU, *(",".join(map(str, row)) for row in rows)]) + "\n")
    write_csv(folder / "valid.csv", KAGGLE_AVAZU, rows[:4])
    write_csv(folder / "test.csv", KAGGLE_AVAZU, [[1, 0, "14103023", *["never"] * 21]])


WRITERS = {
    "movielens_latest": write_movielens_latest,
    "micro_video": write_micro_video,
    "kuai_video": write_kuai_video,
    "taobao_ads": write_taobao_ads,
    "criteo_x1": write_criteo_x1,
    "criteo_terabyte": write_criteo_terabyte,
    "avazu_x4": write_avazu_x4,
}
MODELS = ("wukong", "dlrm", "dcnv2", "dnn", "autoint", "afn", "masknet", "xdeepfm", "finalmlp")


@dataclasses.dataclass(frozen=True)
class Prepared:
    directory: Path
    schema: Schema  # resolved
    report: dict

    def read(self, split):
        """Returns the arrays of a split, with its ids as a mapping from column to [rows, slots]."""
        blocks = open_row_blocks(self.directory, split).read(0)
        return blocks, {c.name: blocks["ids"][:, start:stop] for c, start, stop in self.schema.slot_ranges()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    done = {}

    def prepare(name):
        if name not in done:
            raw = tmp_path_factory.mktemp(name)
            WRITERS[name](raw)
            out = raw / "prepared"
            report = prepare_data(load_builtin_schema(name), [raw], out)
            done[name] = Prepared(out, load_schema(out / "schema.json"), report)
        return done[name]

    return prepare


def load_run(prepared, name, model, **changes):
    config = load_config(f"public/{name}:{model}")
    config.data.path = str(prepared(name).directory)
    config.mesh.chips = 1
    options = changes.pop("options", None)
    config.update_from_flattened_dict(changes)
    if options is not None:
        config.model.options = options
    return build_run(build_run_config(config), prepared(name).schema)


def count_parameters(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_movielens_latest_rows(prepared):
    data = prepared("movielens_latest")
    assert data.report["rows"] == {"train": 40, "validation": 1, "test": 2}
    rows, ids = data.read("test")
    np.testing.assert_array_equal(rows["labels"][:, 0], [0, 1])
    assert ids["tag_id"].min() >= 1
    assert ids["item_id"][0, 0] >= 1
    assert ids["item_id"][1, 0] == 0  # a movie that nobody tagged in training
    assert rows["group"][0] == rows["group"][1]  # the user


def test_micro_video_rows(prepared):
    data = prepared("micro_video")
    assert data.report["rows"]["train"] == 40
    assert data.report["rows"]["validation"] + data.report["rows"]["test"] == 200
    assert 0 < data.report["rows"]["validation"] < 46  # a tenth of 200, within six standard deviations
    rows, ids = data.read("train")
    np.testing.assert_array_equal(rows["labels"][:, 0], np.arange(40) % 2)
    assert (ids["clicked_items"][0] == -1).all()
    assert (ids["clicked_items"][1] >= 0).all()  # 129 in the file
    assert data.report["bags"]["clicked_items"]["truncated_values"] == 29
    np.testing.assert_array_equal(ids["clicked_items"][2] >= 0, np.arange(100) < 2)
    known = ids["cate_id"][:4, 0]  # of categories 0 to 3
    np.testing.assert_array_equal(ids["clicked_categories"][1, 1:5], known)  # positions 30 to 33 of 129: one table
    assert ids["clicked_categories"][1, 0] not in {0, *known}  # position 29: category 4, which no candidate has
    assert len({*ids["item_id"][1::2, 0]}) == 1
    assert (ids["item_id"][::2] == 0).all()  # seen once, as is every new video of the test
    _, test_ids = data.read("test")
    assert (test_ids["item_id"] == 0).all()
    assert (test_ids["clicked_items"][:, 0] >= 1).all()


def test_kuai_video_rows(prepared):
    data = prepared("kuai_video")
    rows, ids = data.read("train")
    np.testing.assert_array_equal(rows["labels"][:, 0], np.arange(30) % 2)  # clicks, not likes or follows
    assert (ids["pos_items"][3] == -1).all()
    assert ids["item_id"][1, 0] == ids["pos_items"][0, 0]  # item 1 in two columns: one table
    assert ids["item_id"][2, 0] == ids["pos_items"][0, 1] >= 1
    assert ids["item_id"][4, 0] == 0  # seen once
    assert data.report["vocabulary_rows"] == {"user_id": 3, "item_id": 4}
    _, test_ids = data.read("test")
    np.testing.assert_array_equal(test_ids["neg_items"][0, :3], [ids["item_id"][1, 0], 0, -1])


def test_taobao_ads_rows(prepared):
    data = prepared("taobao_ads")
    rows, ids = data.read("train")
    np.testing.assert_allclose(rows["dense"][:, 0], np.log1p(100.5), rtol=1e-6)  # float32
    assert (ids["btag_his"][0] == -1).all()
    assert data.report["vocabulary_rows"]["btag"] == 4  # unknown, the column's 1, and 2 and 4 of the history
    np.testing.assert_array_equal(ids["btag_his"][1, :3] == ids["btag_his"][1, 0], [True, False, True])
    assert ids["cate_his"][1, 0] == ids["cate_id"][1, 0]
    assert ids["brand_his"][1, 0] == ids["brand"][1, 0]
    test_rows, test_ids = data.read("test")
    assert (test_rows["dense"] == 0).all()
    assert (test_ids["btag_his"][:, 0] == 0).all()  # action 3 was never seen
    assert (test_ids["cate_his"][:, 0] == 0).all()


def test_criteo_x1_rows(prepared):
    data = prepared("criteo_x1")
    assert data.report["rows"] == {"train": 40, "validation": 3, "test": 1}
    rows, ids = data.read("train")
    np.testing.assert_allclose(rows["dense"][:, 0], np.arange(40) / 40, rtol=1e-6)  # as they are; float32
    assert min(column.min() for column in ids.values()) >= 1
    _, test_ids = data.read("test")
    assert all((column == 0).all() for column in test_ids.values())


def test_criteo_terabyte_rows(prepared):
    data = prepared("criteo_terabyte")
    assert data.report["rows"] == {"train": 24, "validation": 0, "test": 5}
    rows, ids = data.read("train")
    np.testing.assert_array_equal(rows["labels"][:, 0], np.arange(24) % 2)  # day 2 before day 10
    expected = np.log1p([[0, 0, 0, 25][(2 + n) % 4] for n in range(13)])
    np.testing.assert_allclose(rows["dense"][0], expected, rtol=1e-6)  # an empty number and -1 are 0; float32
    hashed = [column for column in data.schema.categorical if column.encoding == "hash"]
    assert {column.rows for column in hashed} == {40_000_000}
    assert [column.name for column in hashed] == ["C1", "C10", "C20", "C21", "C22"]
    assert ids["C1"].min() >= 1
    assert ids["C1"].max() > 1000
    _, test_ids = data.read("test")
    assert (test_ids["C2"][[1, 4]] == 0).all()  # values of day 23 alone: (i + 1) % 3 == 2
    assert (test_ids["C1"] >= 1).all()


def test_avazu_x4_rows(prepared):
    data = prepared("avazu_x4")
    assert data.report["rows"] == {"train": 30, "validation": 4, "test": 1}
    rows, ids = data.read("train")
    np.testing.assert_array_equal((rows["timestamp"] - 1413849600) // 3600, np.arange(30) % 3)  # 2014-10-21 00:00 UTC
    assert data.report["vocabulary_rows"]["hour"] == 4  # three hours and the unknown
    assert ids["C1"][0, 0] >= 1  # the empty text is a value
    assert "id" not in data.report["vocabulary_rows"]
    _, test_ids = data.read("test")
    assert all((column == 0).all() for column in test_ids.values())


@pytest.mark.parametrize("name", WRITERS)
def test_every_model_fits_its_set(prepared, name):
    for word in ("Command:", "Data:", "Expected:  not run"):
        assert word in (CONFIGS / "public" / f"{name}.py").read_text()
    for model in MODELS:
        run = load_run(prepared, name, model)
        assert type(run.network.model).__name__.lower() == model
    with pytest.raises(UserError, match=f"model 'deepfm': {', '.join(MODELS)}$"):
        load_config(f"public/{name}:deepfm")


@pytest.mark.parametrize(
    ("name", "printed"),
    [  # the paper's Table 3 less the tables: rows of BARS' vocabularies, or of MLPerf's, times D
        ("movielens_latest", 17_734_369 - 128 * 90_242),
        ("micro_video", 2_219_409 - 64 * 11_502),
        ("kuai_video", 44_671_649 - 64 * 642_408),
        ("taobao_ads", 175_724_173 - 128 * 1_295_075),
        ("criteo_terabyte", 26_163_636_001 - 128 * 204_184_585),
    ],
)
def test_wukong_is_about_as_large_as_the_papers(prepared, name, printed):
    run = load_run(prepared, name, "wukong")
    assert count_parameters(run.abstract_state().params) == pytest.approx(printed, rel=0.07)


@pytest.mark.parametrize(
    ("model", "total", "mflop"),
    [
        ("dlrm", 26_136_307_201, 4.62),
        ("dcnv2", 26_179_364_097, 262.35),
        ("masknet", 26_160_209_153, 147.40),
    ],
)
def test_criteo_terabyte_baselines_have_the_papers_counts(model, total, mflop):
    config = load_config(f"criteo_terabyte:{model}", {"data.path": "unread"})
    shape = ModelShape(13, 26, config.embeddings.width, 1)
    module = build_run_config(config).model.build("config.model", shape)
    cost = count_cost(module, shape, batch=4)
    assert cost.dense_parameters == total - 128 * 204_184_585
    assert cost.train_flops_per_example / 1e6 == pytest.approx(mflop, rel=1e-3)  # printed to 0.01


def test_criteo_terabyte_compiles_for_the_papers_tables():
    header = (CONFIGS / "public" / "criteo_terabyte.py").read_text()
    rows = tuple(int(count) for count in re.search(r"--table_rows=([\d,]+)", header)[1].split(","))
    schema = assume_rows(load_builtin_schema("criteo_terabyte"), rows)
    assert sum(schema.vocabulary_rows().values()) == 204_184_588


@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        (
            "micro_video",
            "wukong",
            {"layers": 1, "fmb_tokens": 2, "lcb_tokens": 2, "rank": 2, "fmb_hidden": (4,), "head_hidden": (4,)},
        ),
        ("movielens_latest", "dcnv2", {"structure": "parallel", "cross_layers": 1, "deep_hidden": (4,)}),
    ],
)
def test_a_train_step_moves_the_rows_it_reads(prepared, name, model, options):
    small = {"embeddings.width": 4, "training.batch_size": 40, "training.evaluation_batch_size": 40}
    run = load_run(prepared, name, model, options=options, **small)
    rows = open_row_blocks(prepared(name).directory, "train")
    start = Position(epoch=0, seed=0, rows_consumed=0)
    batches = iterate_batches(rows, run.schema, 40, position=start, shuffle=True, epochs=1, threads=0)
    batch, _ = next(batches)
    batches.close()
    state = run.init_state()
    before = jax.tree.map(np.copy, run.exchange.export_tables(state.tables))
    state, metrics = run.jit_train_step()(state, put_batch(batch, run.mesh))
    assert metrics["finite"] == 1
    assert metrics["weight_sum"] == 40
    assert metrics["loss_sum"] / 40 == pytest.approx(
        np.log(2), abs=0.05
    )  # half of the labels are 1; heads start near 0
    after = run.exchange.export_tables(state.tables)
    for table, arrays in after.items():
        moved = (np.asarray(arrays["rows"]) != before[table]["rows"]).any(axis=1)
        columns = [(start, stop) for c, start, stop in run.schema.slot_ranges() if c.vocabulary == table]
        ids = np.concatenate([np.asarray(batch.ids)[:, start:stop].ravel() for start, stop in columns])
        np.testing.assert_array_equal(moved, np.isin(np.arange(len(moved)), ids), err_msg=table)


@pytest.mark.parametrize(("name", "model"), [("taobao_ads", "dlrm"), ("criteo_x1", "dnn"), ("criteo_terabyte", "dlrm")])
def test_a_train_step_traces_with_numbers_and_sequences(prepared, name, model):
    run = load_run(prepared, name, model)
    state, batch = run.abstract_inputs()
    after, _ = run.jit_train_step().trace(state, batch).out_info
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state)
    assert batch.dense.shape == (run.config.training.batch_size, len(run.schema.dense))
