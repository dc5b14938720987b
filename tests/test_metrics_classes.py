"""The torchmetrics classes: equal to the functions, and to the last bit the same however images are dealt out.

Run as a program, `python test_metrics_classes.py RANK RENDEZVOUS OUT`, this file is one of two processes that share the
images; `test_two_processes...` starts both.
"""

import copy
import os
import pickle
import subprocess
import sys
import warnings
from fractions import Fraction
from itertools import product

import matplotlib
import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from stochseg import metrics as m
from stochseg.errors import InputError
from stochseg.metrics.agreement import (
    best_sample,
    collective_insight,
    combined_sensitivity,
    diversity_agreement,
    max_dice,
)
from stochseg.metrics.areas import area_crps, empty_counts
from stochseg.metrics.calibration import brier_score, dice_of_mean, negative_log_likelihood, soft_dice
from stochseg.metrics.ged import energy_distance_parts, generalized_energy_distance
from stochseg.metrics.intervals import bootstrap_interval
from stochseg.metrics.marginals import class_frequencies
from stochseg.metrics.matching import hungarian_iou
from stochseg.metrics.modes import mode_frequencies, mode_total_variation, off_mode_share
from stochseg.metrics.reliability import expected_calibration_error
from stochseg.metrics.uncertainty import normalized_cross_correlation

matplotlib.use("Agg")

IMAGES, K = 13, 3
FLIPS = [(1, 2, 0.3)]


def blobs(seed, images, maps, size=(9, 11), k=K):
    """Maps of classes in random rectangles; every fourth map is empty."""
    rng = np.random.default_rng(seed)
    out = torch.zeros(images, maps, *size, dtype=torch.uint8)
    for i, j in product(range(images), range(maps)):
        for c in range(1, k):
            if rng.random() < 0.75:
                top, left = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
                out[i, j, top : top + rng.integers(2, size[0]), left : left + rng.integers(2, size[1])] = c
    return out


def inputs(images=IMAGES, size=(9, 11)):
    """Samples and labels of each image, with a missing rater, an empty image, and a first one without any error."""
    samples, labels, modes = blobs(0, images, 6, size), blobs(1, images, 3, size), blobs(2, images, 3, size)
    labels[0] = samples[0, :1] = samples[0] = samples[0, :1].clone()
    labels[min(3, images - 1), 1] = 255
    if images > 5:
        samples[5] = labels[5] = 0
    soft = torch.rand(images, K, *size, generator=torch.Generator().manual_seed(3)).softmax(1)
    p = torch.rand(images, 3, generator=torch.Generator().manual_seed(4)).softmax(1)
    return {"samples": samples, "labels": labels, "soft": soft, "modes": modes, "p": p}


SETS, SOFT, MODES, FLIPPED = ("samples", "labels"), ("soft", "labels"), ("samples", "modes", "p"), ("samples", "one")
CASES = {  # name: metric, the inputs it takes, the function of the values of images
    "ged": (lambda: m.GeneralizedEnergyDistance(K), SETS, lambda s, y: generalized_energy_distance(s, y, K)),
    "ged flips": (
        lambda: m.GeneralizedEnergyDistance(K, flips=FLIPS),
        FLIPPED,
        lambda s, y: generalized_energy_distance(s, y, K, flips=FLIPS),
    ),
    "distance": (lambda: m.DistanceToLabels(K), SETS, lambda s, y: energy_distance_parts(s, y, K).d_ys),
    "diversity": (lambda: m.SampleDiversity(K), SETS, lambda s, y: energy_distance_parts(s, y, K).diversity),
    "hungarian": (lambda: m.HungarianIoU(K), SETS, lambda s, y: hungarian_iou(s, y, K)),
    "hungarian ccdm": (
        lambda: m.HungarianIoU(K, "ccdm", ignore=2),
        SETS,
        lambda s, y: hungarian_iou(s, y, K, "ccdm", ignore=2),
    ),
    "max dice": (lambda: m.MaxDice(K), SETS, lambda s, y: max_dice(s, y, K)),
    "max dice both": (
        lambda: m.MaxDice(K, absent="left out", over="both"),
        SETS,
        lambda s, y: max_dice(s, y, K, absent="left out", over="both"),
    ),
    "best sample": (lambda: m.BestSample(K, "iou"), SETS, lambda s, y: best_sample(s, y, K, "iou")),
    "sensitivity": (lambda: m.CombinedSensitivity(K), SETS, lambda s, y: combined_sensitivity(s, y, K)),
    "agreement": (
        lambda: m.DiversityAgreement(K, spread="dice"),
        SETS,
        lambda s, y: diversity_agreement(s, y, K, spread="dice"),
    ),
    "insight": (lambda: m.CollectiveInsight(K), SETS, lambda s, y: collective_insight(s, y, K)),
    "ncc": (lambda: m.NormalizedCrossCorrelation(K), SETS, lambda s, y: normalized_cross_correlation(s, y, K)),
    "area": (lambda: m.AreaCRPS(K), SETS, lambda s, y: area_crps(s, y, K)),
    "area relative": (
        lambda: m.AreaCRPS(K, relative=True, statistic="U"),
        SETS,
        lambda s, y: area_crps(s, y, K, relative=True, statistic="U"),
    ),
    "dice of mean": (lambda: m.DiceOfMean(K), SETS, lambda s, y: dice_of_mean(s, y, K)),
    "soft dice": (lambda: m.SoftDice(K), SOFT, lambda q, y: soft_dice(q, y)),
    "soft dice of samples": (
        lambda: m.SoftDice(K, [0.2, 0.4], from_samples=True),
        SETS,
        lambda s, y: soft_dice(class_frequencies(s, K), y, [0.2, 0.4]),
    ),
    "brier": (lambda: m.BrierScore(K, ignore=1), SOFT, lambda q, y: brier_score(q, y, ignore=1)),
    "nll": (lambda: m.NegativeLogLikelihood(K), SOFT, lambda q, y: negative_log_likelihood(q, y)),
    "modes": (
        lambda: m.ModeTotalVariation(K),
        MODES,
        lambda s, modes, p: mode_total_variation(mode_frequencies(s, modes, K), p),
    ),
    "off modes": (lambda: m.OffModeShare(K), MODES[:2], lambda s, modes: off_mode_share(s, modes, K)),
}
BINNED = {  # name: metric, the inputs it takes, the function of all images at once
    "ece": (lambda: m.ExpectedCalibrationError(K), SOFT, lambda q, y: expected_calibration_error(q, y)),
    "ece mass": (
        lambda: m.ExpectedCalibrationError(K, 7, "foreground", "mass"),
        SOFT,
        lambda q, y: expected_calibration_error(q, y, 7, "foreground", binning="mass"),
    ),
    "ece classes": (
        lambda: m.ExpectedCalibrationError(K, target="class", ignore=2, from_samples=True),
        SETS,
        lambda s, y: expected_calibration_error(class_frequencies(s, K), y, target="class", ignore=2),
    ),
    "empty": (lambda: m.EmptyCalibrationError(K), SETS, lambda s, y: empty_counts(s, y, K).error()),
}
ALL = CASES | BINNED
BATCHES = [[12], [5, 2, 9], [], [0, 7, 11, 1], [3, 4, 10], [8, 6]]
"""Images in another order and uneven batches, one of them without any."""


def feed(metric, wanted, data, batches):
    data = data | {"one": data["labels"][:, :1]}
    for batch in batches:
        if batch:
            metric.update(*(data[name][batch] for name in wanted))
    return metric


def same(a, b):
    return torch.equal(torch.as_tensor(a).nan_to_num(nan=-7), torch.as_tensor(b).nan_to_num(nan=-7))


def of_one_process(name, data, images):
    make, wanted, _ = ALL[name]
    return feed(make(), wanted, data, [list(images)])


@pytest.fixture(scope="module")
def data():
    return inputs()


@pytest.mark.parametrize("name", CASES)
def test_is_the_mean_of_the_function_and_counts_the_undefined(name, data):
    make, wanted, function = CASES[name]
    metric = feed(make(), wanted, data, [range(IMAGES)])
    values = function(*((data | {"one": data["labels"][:, :1]})[key] for key in wanted))
    assert same(metric.per_image(), values)
    defined = values[~values.isnan()]
    assert metric.compute().item() == pytest.approx(defined.mean().item(), rel=1e-14)
    assert metric.compute().dtype == torch.float64
    assert metric.undefined == values.isnan().sum()
    assert len(defined) > IMAGES // 2


@pytest.mark.parametrize("name", BINNED)
def test_calibration_error_is_the_function_of_all_images(name, data):
    make, wanted, function = BINNED[name]
    metric = feed(make(), wanted, data, [range(IMAGES)])
    assert metric.compute().item() == pytest.approx(function(*(data[key] for key in wanted)).item(), rel=1e-13)
    assert metric.compute().item() == pytest.approx(metric.counts().error().mean().item())


def test_some_scores_of_the_inputs_are_undefined(data):
    metric = of_one_process("ncc", data, range(IMAGES))
    assert metric.compute().isfinite()
    assert metric.undefined == 2  # the samples of images 0 and 5 are all alike


@pytest.mark.filterwarnings("ignore:.*is undefined for every image")
@pytest.mark.parametrize("name", ALL)
def test_order_and_batches_do_not_move_a_bit(name, data):
    make, wanted, _ = ALL[name]
    whole = of_one_process(name, data, range(IMAGES)).compute()
    one_by_one = feed(make(), wanted, data, [[i] for i in range(IMAGES)])
    mixed = feed(make(), wanted, data, BATCHES)
    forward = make()
    kept = data | {"one": data["labels"][:, :1]}
    for i in range(0, IMAGES, 4):
        batch = list(range(i, min(i + 4, IMAGES)))
        value = forward(*(kept[key][batch] for key in wanted))
        assert same(value, of_one_process(name, data, batch).compute())
    assert same(one_by_one.compute(), whole)
    assert same(mixed.compute(), whole)
    assert same(forward.compute(), whole)
    if name in CASES:
        order = [i for batch in BATCHES for i in batch]
        assert same(mixed.per_image(), one_by_one.per_image()[order])


@pytest.mark.parametrize("name", ["brier", "nll", "ncc"])
def test_threads_do_not_move_a_bit(name):
    """Torch divides a sum to a single number among threads: the sum over the pixels of one image, not of several."""
    data = inputs(2, (211, 223))
    make, wanted, _ = CASES[name]
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found += [of_one_process(name, data, [0, 1]).per_image()]
        found += [feed(make(), wanted, data, [[0], [1]]).per_image()]
    assert all(same(one, found[0]) for one in found)


@pytest.mark.parametrize("seed", range(4))
def test_batches_do_not_move_a_bit_whatever_the_numbers_of_maps(seed):
    """Torch adds up the first numbers of a long row in another order than its last: the row must not be the batch."""
    rng = np.random.default_rng(seed)
    r, k, b = int(rng.integers(1, 9)), int(rng.integers(3, 9)), int(rng.integers(18, 44))
    size = tuple(rng.integers(4, 8, 2))
    samples, labels = (
        torch.from_numpy(rng.integers(0, k, (b, maps, *size))).byte() for maps in (r * int(rng.integers(2, 6)), r)
    )
    flips = [(1, 2, 0.3), (3, 4, 0.6), (5, 6, 0.2)][: (k - 1) // 2]
    metrics = [
        m.GeneralizedEnergyDistance(k, "values"),
        m.HungarianIoU(k),
        m.GeneralizedEnergyDistance(k, flips=flips),
        m.MaxDice(k, over="both"),
        m.BestSample(k),
        m.CollectiveInsight(k, spread="dice"),
        m.NormalizedCrossCorrelation(k),
        m.AreaCRPS(k, relative=True),
        m.DiceOfMean(k),
        m.SoftDice(k, from_samples=True),
        m.BrierScore(k, from_samples=True),
        m.NegativeLogLikelihood(k, from_samples=True),
    ]
    for metric in metrics:
        y = labels[:, :1] if metric.settings.get("flips") else labels
        metric.update(samples, y)
        whole = metric.per_image()
        metric.reset()
        for i in range(b):
            metric.update(samples[i : i + 1], y[i : i + 1])
        assert same(metric.per_image(), whole), metric


def ged_by_loops(samples, labels):
    """Mean over images of 2 E d(s, y) - E d(s, s') - E d(y, y'), in fractions and sets of pixels."""

    def distance(a, b):
        total = Fraction(0)
        for c in range(1, K):
            ours, theirs = ({p for p, value in np.ndenumerate(each) if value == c} for each in (a, b))
            total += Fraction(len(ours & theirs), len(ours | theirs)) if ours | theirs else 1
        return 1 - total / (K - 1)

    def mean(some, others):
        pairs = list(product(some, others))
        return sum(distance(a, b) for a, b in pairs) / len(pairs)

    scores = []
    for s, y in zip(samples.numpy(), labels.numpy(), strict=True):
        present = [one for one in y if one.min() < 255]
        scores.append(2 * mean(s, present) - mean(s, s) - mean(present, present))
    return float(sum(scores) / len(scores))


def test_ged_is_that_of_plain_loops(data):
    metric = feed(m.GeneralizedEnergyDistance(K), SETS, data, BATCHES)
    assert metric.compute().item() == pytest.approx(ged_by_loops(data["samples"], data["labels"]), rel=1e-13)


def test_the_sum_is_not_rounded_on_the_way():
    metric = m.AreaCRPS()
    values = [1e16, 1.0, -1e16, 3.0]
    metric.load_state_dict({metric._state: [torch.tensor([[value]], dtype=torch.float64) for value in values]})
    assert sum(values) == 3.0  # 1e16 + 1 is 1e16
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().item() == 1.0


@pytest.mark.parametrize("name", ALL)
def test_reset_copies_pickles_and_state_dicts(name, data, tmp_path):
    make, wanted, _ = ALL[name]
    metric = feed(make(), wanted, data, BATCHES[:3])
    copies = [copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()]
    metric.persistent(True)
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    loaded = make()
    loaded.load_state_dict(torch.load(tmp_path / "state.pt"))
    whole = of_one_process(name, data, range(IMAGES)).compute()
    for each in [metric, loaded, *copies]:
        assert same(feed(each, wanted, data, BATCHES[3:]).compute(), whole)
    metric.reset()
    assert same(feed(metric, wanted, data, [[1, 2]]).compute(), of_one_process(name, data, [1, 2]).compute())
    assert not make().state_dict()  # as in torchmetrics, states are saved where asked for


def collection():
    of_sets = {name: make() for name, (make, wanted, _) in ALL.items() if wanted == SETS}
    again = {
        "ged U": m.GeneralizedEnergyDistance(K, statistic="U"),
        "ged ccdm": m.GeneralizedEnergyDistance(K, "ccdm"),
        "ged ignore": m.GeneralizedEnergyDistance(K, ignore=2),
        "ece foreground": m.ExpectedCalibrationError(K, target="foreground", from_samples=True),
        "ece top": m.ExpectedCalibrationError(K, target="top", from_samples=True),
    }
    return of_sets | again


@pytest.mark.filterwarnings("ignore:.*is undefined for every image")
@pytest.mark.parametrize("calls", ["update", "forward", "mixed"])
def test_in_a_collection_each_is_what_it_is_alone(calls, data):
    """On the first image all is right, so many scores are 0 or 1: torchmetrics must not take them for one."""
    together, alone = MetricCollection(collection()), collection()
    for i in range(IMAGES):
        batch = data["samples"][i : i + 1], data["labels"][i : i + 1]
        if calls == "forward" or (calls == "mixed" and i in (2, 3, 6, 12)):
            together(*batch)
        else:
            together.update(*batch)
        for metric in alone.values():
            metric.update(*batch)
    found = together.compute()
    for name, metric in alone.items():
        assert same(found[name], metric.compute()), name
        assert calls == "update" or together[name].update_count == IMAGES
    groups = [set(group) for group in together.compute_groups.values() if len(group) > 1]
    assert groups == ([] if calls == "forward" else [{"ged", "distance", "diversity"}])  # distances are had once
    together.reset()
    together.update(data["samples"][3:7], data["labels"][3:7])
    assert same(together.compute()["diversity"], of_one_process("diversity", data, range(3, 7)).compute())


def test_a_collection_deals_out_keywords(data):
    metrics = MetricCollection({"ged": ALL["ged"][0](), "brier": ALL["brier"][0](), "modes": ALL["modes"][0]()})
    metrics.update(
        samples=data["samples"],
        labels=data["labels"],
        predictions=data["soft"],
        modes=data["modes"],
        probabilities=data["p"],
    )
    found = metrics.compute()
    assert all(same(found[name], of_one_process(name, data, range(IMAGES)).compute()) for name in found)


def test_weights_are_those_of_the_function(data):
    weights = torch.arange(1.0, 7.0)
    metric = m.GeneralizedEnergyDistance(K)
    metric.update(data["samples"], data["labels"], sample_weights=weights)
    assert same(
        metric.per_image(),
        generalized_energy_distance(data["samples"], data["labels"], K, sample_weights=weights),
    )


def test_values_of_images_go_into_an_interval(data):
    metric = of_one_process("ged", data, range(IMAGES))
    low, high = bootstrap_interval(metric.per_image(), [i // 2 for i in range(IMAGES)])
    assert low < metric.compute() < high


def test_undefined_for_every_image_is_nan_with_a_warning(data):
    metric = m.NormalizedCrossCorrelation(K)
    metric.update(data["samples"][[0, 5]], data["labels"][[0, 5]])
    with pytest.warns(UserWarning, match="undefined for every image"):
        assert metric.compute().isnan()
    assert metric.undefined == 2
    metric.update(data["samples"][1:3], data["labels"][1:3])
    assert metric.compute().isfinite()
    assert metric.undefined == 2
    metric.reset()
    assert metric.undefined == 0
    ignored = m.ExpectedCalibrationError(K, ignore=1)
    ignored.update(data["soft"], torch.ones_like(data["labels"]))
    with pytest.warns(UserWarning, match="nothing to count"):
        assert ignored.compute().isnan()


@pytest.mark.parametrize("name", ["ged", "ece"])
def test_nothing_given_is_nan_with_the_warning_of_torchmetrics(name):
    metric = ALL[name][0]()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute().isnan()


@pytest.mark.parametrize("name", ["ged", "brier", "ece"])
def test_precision_of_a_model_does_not_round_the_scores(name, data):
    make, wanted, _ = ALL[name]
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), feed(make(), wanted, data, BATCHES[:3]))
    model = model.half().to(torch.bfloat16).to("cpu", torch.float16)
    model[1].set_dtype(torch.float16)
    assert model[0].weight.dtype == torch.float16
    metric = feed(model[1], wanted, data, BATCHES[3:])
    assert metric.compute().dtype == torch.float64
    assert same(metric.compute(), of_one_process(name, data, range(IMAGES)).compute())


def test_to_a_device_and_back(data):
    metric = of_one_process("ged", data, range(IMAGES)).to("meta")
    assert metric.device.type == "meta"
    assert metric.metric_state[metric._state][0].dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL)
def test_on_a_gpu_it_is_the_same(name, data):
    make, wanted, _ = ALL[name]
    metric = make().to("cuda")
    kept = {key: value.cuda() for key, value in data.items()}
    feed(metric, wanted, kept, BATCHES)
    assert metric.compute().device.type == "cuda"
    assert metric.compute().item() == pytest.approx(of_one_process(name, data, range(IMAGES)).compute().item())


@pytest.mark.parametrize("name", ALL)
def test_plots(name, data):
    from matplotlib import pyplot as plt

    metric = of_one_process(name, data, range(IMAGES))
    figure, axes = metric.plot()
    assert axes.lines
    plt.close(figure)
    figure, axes = metric.plot([metric.compute(), metric.compute()])
    assert axes.get_xlabel() == "Step"
    given, axes_again = metric.plot(ax=axes)
    assert axes_again is axes
    assert name not in BINNED or given is figure
    plt.close(figure)


def test_the_curve_that_is_drawn_is_that_of_the_function(data):
    from matplotlib import pyplot as plt

    metric = of_one_process("ece classes", data, range(IMAGES))
    figure, axes = metric.plot()
    drawn = {line.get_label(): line for line in axes.lines}
    confidence, frequency = metric.counts().curve()
    for i in (0, 1):  # class 2 is ignored
        used = metric.counts().counts[i] > 0
        np.testing.assert_array_equal(drawn[f"class {i}"].get_xdata(), confidence[i][used])
        np.testing.assert_array_equal(drawn[f"class {i}"].get_ydata(), frequency[i][used])
    assert (axes.get_xlabel(), axes.get_xlim()) == ("confidence", (0, 1))
    plt.close(figure)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: m.GeneralizedEnergyDistance(classes=1), "classes is 1"),
        (lambda: m.GeneralizedEnergyDistance(convention="cars"), "'cars' is not known"),
        (lambda: m.HungarianIoU(K, flips=[(1, 7, 0.5)]), r"flips\[0\] has class 7"),
        (lambda: m.BrierScore(K, ignore=3), "ignore is 3"),
        (lambda: m.ExpectedCalibrationError(K, target="best"), "target is 'best'"),
        (lambda: m.ExpectedCalibrationError(K, binning="even"), "binning is 'even'"),
        (lambda: m.ExpectedCalibrationError(K, bins=0), "bins is 0"),
        (lambda: m.EmptyCalibrationError(K, bins=0), "bins is 0"),
    ],
)
def test_settings_that_cannot_be_say_so_at_once(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_inputs_that_do_not_fit_say_why(data):
    with pytest.raises(InputError, match="made with classes=2"):
        m.BrierScore().update(data["soft"], data["labels"])
    with pytest.raises(InputError, match="class_frequencies"):
        m.BrierScore(K).update(data["samples"], data["labels"])
    with pytest.raises(InputError, match="integer class ids"):
        m.SoftDice(K, from_samples=True).update(data["soft"], data["labels"])
    with pytest.raises(ValueError, match="clases"):
        m.BrierScore(clases=3)


def test_settings_are_shown():
    assert repr(m.MaxDice(4, over="both")) == "MaxDice(classes=4, ignore=None, absent=1.0, over='both')"


def shares(rank):
    """The batches of a process, for two dealings: uneven with uneven last batches, and all to process 0."""
    return [
        [[[12, 0, 5], [3]], [[1, 2], [7, 6], [11, 10, 4], [8], [9]]][rank],
        [[list(range(7)), list(range(7, IMAGES))], []][rank],
    ]


def run_process(rank, rendezvous, out):
    torch.set_num_threads(1 + rank)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    data, found = inputs(), []
    for dealing, batches in enumerate(shares(rank)):
        results = {}
        for name, (make, wanted, _) in ALL.items():
            metric = feed(make(), wanted, data, batches)
            value, undefined = metric.compute(), getattr(metric, "undefined", 0)
            more = metric.per_image() if name in CASES else metric.counts().counts
            if dealing == 0:  # each process goes on with its own images, not with all
                feed(metric, wanted, data, batches[:1])
            results[name] = value, undefined, more, metric.compute()
        metrics = MetricCollection(collection())
        feed(metrics, SETS, data, batches)
        found.append((results, metrics.compute()))
    torch.save(found, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_number_of_one(data, tmp_path):
    command = [sys.executable, "-W", "ignore", __file__]
    outs = [tmp_path / f"{rank}.pt" for rank in range(2)]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "rendezvous"), str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
    found = [torch.load(out) for out in outs]
    for dealing in range(2):
        order = [i for rank in range(2) for batch in shares(rank)[dealing] for i in batch]
        again = order + [i for rank in range(2) for i in shares(rank)[0][0]] if dealing == 0 else order
        for (results, of_collection), name in product((each[dealing] for each in found), ALL):
            metric = of_one_process(name, data, order)
            value, undefined, more, later = results[name]
            assert same(value, metric.compute()), (dealing, name)
            assert undefined == getattr(metric, "undefined", 0)
            assert same(more, metric.per_image() if name in CASES else metric.counts().counts), (dealing, name)
            assert same(later, of_one_process(name, data, again).compute()), (dealing, name)
            assert name not in of_collection or same(of_collection[name], metric.compute()), (dealing, name)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run_process(int(sys.argv[1]), sys.argv[2], sys.argv[3])
