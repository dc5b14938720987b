"""The command line: one function a command. Only this file knows command lines; help comes from docstrings."""

import os
import sys
import traceback
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stochseg.command_line import new_parser, parse
from stochseg.errors import InputError, RunError, SaidElsewhere, Stopped
from stochseg.memory import keep_freed_memory
from stochseg.processes import several, speaks
from stochseg.progress import complain, say
from stochseg.threads import wait_asleep

Command = Callable[[list[str]], int]
SUCCESS, FAILURE, BAD_INPUT, SKIPPED, STOPPED = 0, 1, 2, 3, 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 failure, 2 bad input, 3 inputs skipped, 75 stopped and saved."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    wait_asleep()
    code = _run([a for a in given if a != "--debug"], "--debug" in given)
    if code not in (SUCCESS, SKIPPED) and several():  # the usual end would wait for processes that may be gone
        sys.stdout.flush()
        os._exit(code)
    return code


def _run(given: list[str], debug: bool) -> int:
    try:
        if given and given[0] not in SHARED and several():
            raise InputError(f"stochseg {given[0]}: is the work of one process; start it without torchrun")
        return dispatch("stochseg", COMMANDS, given)
    except (InputError, RunError) as error:
        if debug:
            traceback.print_exc()
        complain(f"stochseg: error: {' '.join(str(error).split())}")
        return BAD_INPUT if isinstance(error, InputError) else FAILURE
    except SaidElsewhere as elsewhere:
        return BAD_INPUT if elsewhere.bad_input else FAILURE
    except Stopped as stopped:
        say(f"stochseg: {stopped}")
        return STOPPED
    except KeyboardInterrupt:
        complain("stochseg: stopped")
        return FAILURE
    except OSError as error:
        if debug:
            traceback.print_exc()
        complain(f"stochseg: error: {error.filename or 'a file'}: {error.strerror}; make room, or get the rights")
        return BAD_INPUT
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split())
        complain(
            f"stochseg: error: unexpected {type(error).__name__}: {text}; please report it with what --debug shows"
        )
        return FAILURE


def dispatch(prog: str, commands: dict[str, tuple[Command, str]], given: list[str]) -> int:
    """Hand the arguments to the command that the first of them names."""
    if given and given[0] in commands:
        return commands[given[0]][0](given[1:])
    width = max(len(name) for name in commands)
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in commands.items()]
    usage = "\n".join(
        [f"usage: {prog} COMMAND ...", "", *lines, "", f"{prog} COMMAND --help tells more; --debug shows tracebacks"]
    )
    if given and given[0] in ("-h", "--help"):
        print(usage)
        return SUCCESS
    if given and given[0] == "--version":
        from stochseg import __version__

        print(f"stochseg {__version__}")
        return SUCCESS
    if not given:
        print(usage, file=sys.stderr)
        return BAD_INPUT
    raise InputError(f"{prog} {given[0]}: no such command; there are {', '.join(commands)}")


def prepare(given: list[str]) -> int:
    return dispatch("stochseg prepare", SOURCES, given)


def prepare_lidc(given: list[str]) -> int:
    from stochseg.data.lidc import prepare_lidc as call
    from stochseg.data.store import open_store

    parser = new_parser(
        "stochseg prepare lidc", "Make a store of LIDC-IDRI nodule slices with the masks of four readers."
    )
    parser.add_function_arguments(call)
    store = call(**parse(parser, given))
    _prepared(store, "lidc")
    return SKIPPED if open_store(store).notes.get("left_out") else SUCCESS


def prepare_folder(given: list[str]) -> int:
    from stochseg.data.folder import prepare_folder as call

    parser = new_parser(
        "stochseg prepare folder", "Make a store of images of your own with the labels of several raters."
    )
    parser.add_function_arguments(call)
    store = call(**parse(parser, given))
    return _prepared(store, "lidc --input.crop none") if store else SUCCESS


def prepare_ambiguous(given: list[str]) -> int:
    from stochseg.data.ambiguous import prepare_ambiguous as call

    parser = new_parser(
        "stochseg prepare ambiguous", "Make a store of generated images whose distribution is known exactly."
    )
    parser.add_function_arguments(call)
    return _prepared(call(**parse(parser, given)), "demo")


def prepare_cityscapes(given: list[str]) -> int:
    from stochseg.data.cityscapes import prepare_cityscapes as call

    parser = new_parser("stochseg prepare cityscapes", "Make a store of street scenes in the layout of Cityscapes.")
    parser.add_function_arguments(call)
    return _prepared(call(**parse(parser, given)), "cityscapes")


def _prepared(store: Path, preset: str) -> int:
    say(f"store ready: {store}; train on it with `stochseg train --config {preset} --data {store}`")
    return SUCCESS


def train(given: list[str]) -> int:
    if _study_of(given) is not None:
        return train_study(given)
    text = (
        "Train on a store. Every key of the config is a flag too; the defaults here are those of the preset lidc, and with "
        "--config NAME --help those of another. --config regression is a study on data of its own, with "
        "flags of its own: `stochseg train --config regression --help`."
    )
    run, data = _train("stochseg train", text, given, "lidc")
    say(f"done: {run}; judge it with `stochseg evaluate {run} --data {data} --split val`")
    return SUCCESS


def _train(prog: str, text: str, given: list[str], preset: str, **fixed: object) -> tuple[Path, Path]:
    """Run and store. preset: the default; fixed: keys of the config that this command sets."""
    from stochseg.config import Config
    from stochseg.presets import flatten, preset_names, read_preset
    from stochseg.training.profile import profile_table
    from stochseg.training.run import train as call

    parser = new_parser(prog, text)
    presets = ", ".join(preset_names())
    parser.add_argument("--config", help=f"preset ({presets}) or YAML file; default {preset}")
    parser.add_argument("--data", required=True, type=Path, help="the store, from `stochseg prepare`")
    parser.add_argument("--out", type=Path, help="run directory; default runs/DATE_TIME_PRESET")
    parser.add_argument("--resume", action="store_true", help="go on in --out where training stopped")
    parser.add_argument("--verify", action="store_true", help="read the whole store first and compare its sha256")
    parser.add_argument("--profile", action="store_true", help="show where a step's time goes; writes RUN/profile.json")
    parser.add_class_arguments(Config)
    if {"-h", "--help"} & set(given):
        parser.set_defaults(flatten(read_preset(_early(given).config or preset)))
    flags = parse(parser, given, only_given=True)
    ours = {name: flags.pop(name) for name in ("config", "data", "out", "resume", "verify", "profile") if name in flags}
    if not ours.get("resume"):  # which keeps its own
        ours.setdefault("config", preset)
    for name, value in fixed.items():
        if flags.setdefault(name, value) != value:
            raise InputError(
                f"--{name} {flags[name]}: {prog} sets it to {value}; leave it out, or use `stochseg train`"
            )
    keep_freed_memory(large=True)
    run = call(**ours, **flags)
    if ours.get("profile") and speaks():
        print(profile_table(run))
    return run, ours["data"]


def blackbox(given: list[str]) -> int:
    return dispatch("stochseg blackbox", BLACKBOX, given)


def blackbox_train(given: list[str]) -> int:
    text = (
        "Train a segmenter with cross entropy, for `stochseg blackbox predict`. Classes that flip are trained unflipped. The "
        "defaults here are those of the preset blackbox."
    )
    fixed = {"method": "deterministic", "input.blackbox": False, "input.class_flips": False}
    run, data = _train("stochseg blackbox train", text, given, "blackbox", **fixed)
    say(f"done: {run}; put its predictions into the store with `stochseg blackbox predict {run} --data {data}`")
    return SUCCESS


def blackbox_predict(given: list[str]) -> int:
    from stochseg.blackbox import predict as call

    parser = new_parser("stochseg blackbox predict", "Put the predictions of a run into a store, as its black box.")
    parser.add_argument("run", type=Path, help="run directory or exported model")
    parser.add_argument("--split", nargs="+", help="splits to fill; default: all")
    parser.add_function_arguments(call, skip={"run", "split"})
    return _added(call, parse(parser, given))


def blackbox_import(given: list[str]) -> int:
    from stochseg.blackbox import import_predictions as call

    parser = new_parser(
        "stochseg blackbox import", "Put predictions that any segmenter saved into a store, as its black box."
    )
    parser.add_argument("--split", nargs="+", help="splits to fill; default: all that have predictions")
    parser.add_function_arguments(call, skip={"split"})
    return _added(call, parse(parser, given))


def _added(call: Callable[..., Any], flags: dict[str, Any]) -> int:
    from stochseg.wording import counted

    for added in call(**flags):
        kind = "probabilities" if added.soft else "class maps"
        right = f", right at {added.agreement:.1%} of the pixels" if added.agreement == added.agreement else ""
        say(f"{added.split}: {kind} of {counted(added.images, 'image')}{right}")
    say(f"train on top with `stochseg train --data {flags['data']} --input.blackbox true --calibration.net convnet`")
    return SUCCESS


def train_study(given: list[str]) -> int:
    from stochseg.regression.config import StudyConfig
    from stochseg.regression.judging import results_text
    from stochseg.regression.study import run_study as call

    parser = new_parser(
        "stochseg train --config regression",
        "Run the paper's study of bimodal regression on generated numbers, and score it against the exact distribution.",
    )
    parser.add_argument("--config", help="regression, or a YAML file with the key `study: regression`")
    parser.add_argument("--out", type=Path, help="run directory; default runs/DATE_TIME_regression")
    parser.add_argument("--resume", action="store_true", help="go on in --out where the study stopped")
    parser.add_class_arguments(StudyConfig)
    run, results = call(**parse(parser, given, only_given=True))
    print(results_text(results))
    minutes = sum(results["training_seconds"].values()) / 60
    say(f"done: {run}, {minutes:.1f} minutes of training; open {run}/report.html in a browser")
    return SUCCESS


def _study_of(given: list[str]) -> str | None:
    """The study that `train` is to run: --config names it or, where a run is resumed, its directory does."""
    from stochseg.presets import study_of

    flags = _early(given)
    kept = flags.out / "config.yaml" if flags.resume and flags.out else None
    if kept is not None and kept.is_file():
        return study_of(str(kept))
    return study_of(flags.config) if flags.config else None


def _early(given: list[str]) -> Namespace:
    """What says which flags `train` has: config, out and resume; nothing where they cannot be read."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    try:
        return parser.parse_known_args(given)[0]
    except ArgumentError:  # the command's own parser says what is wrong
        return Namespace(config=None, out=None, resume=False)


def evaluate(given: list[str]) -> int:
    from stochseg.evaluation import evaluate as call
    from stochseg.report.table import scores_table

    parser = new_parser("stochseg evaluate", "Score a run on a split of a store, beside trivial answers.")
    parser.add_argument("run", type=Path, help="run directory or exported model")
    parser.add_function_arguments(call, skip={"run", "calibration", "blackbox"})
    result = call(**parse(parser, given))
    if speaks():
        print(scores_table(result))
    return SKIPPED if result["skipped"] else SUCCESS


def sample(given: list[str]) -> int:
    from stochseg.sample_files import sample_files as call
    from stochseg.wording import counted

    parser = new_parser(
        "stochseg sample", "Draw samples of images in files: maps, mean, entropy, areas, a sheet of each."
    )
    parser.add_argument("run", type=Path, help="run directory or exported model")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files, folders or patterns: PNG, JPEG, TIFF, NPY, NIfTI, DICOM",
    )
    parser.add_function_arguments(call, skip={"run", "images"})
    flags = parse(parser, given)
    done = call(**flags)
    there = f" ({len(done.kept)} were there)" if done.kept else ""
    say(f"sampled {counted(len(done.written), 'image')} into {flags['out']}{there}; look at IMAGE/sheet.png")
    return SKIPPED if done.skipped else SUCCESS


def calibrate(given: list[str]) -> int:
    from stochseg.calibrate import calibrate as call
    from stochseg.report.calibration import calibration_text

    parser = new_parser(
        "stochseg calibrate",
        "Fit temperatures of q, and sets of pixels that cover a new rater's outline as often as asked.",
    )
    parser.add_argument("run", type=Path, help="run directory or exported model")
    parser.add_function_arguments(call, skip={"run", "calibration", "blackbox"})
    print(calibration_text(call(**parse(parser, given))))
    return SUCCESS


def score(given: list[str]) -> int:
    from stochseg.report.score_table import score_table
    from stochseg.scoring.folders import score as call
    from stochseg.scoring.options import flips_of_text

    parser = new_parser(
        "stochseg score",
        "Score predictions of any program, in folders; docs/score.md has the layouts. Exit code 3: images skipped.",
    )
    parser.add_argument(
        "--samples",
        required=True,
        action="extend",
        nargs="+",
        metavar="DIR",
        help="folder of samples, IMAGE.npy [n h w], IMAGE/*.png, ...; give two to compare them",
    )
    parser.add_argument(
        "--flips",
        metavar="TABLE",
        help="[[from, to, probability], ...], classes of the labels that flip independently of each other; car then "
        "counts as car-cityscapes, mose as mose-cityscapes",
    )
    parser.add_function_arguments(call, skip={"samples", "flips"})
    flags = parse(parser, given)
    flags["flips"] = None if flags["flips"] is None else flips_of_text(flags["flips"])
    result = call(**flags)
    print(score_table(result))
    return SKIPPED if result["skipped"] else SUCCESS


def compare(given: list[str]) -> int:
    from stochseg.compare import compare as call
    from stochseg.report.comparison import comparison_text

    parser = new_parser("stochseg compare", "Scores, paired differences and costs of several runs on the same images.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories; differences are those to the first")
    parser.add_function_arguments(call, skip={"runs"})
    flags = parse(parser, given)
    print(comparison_text(call(**flags)))
    if flags["out"]:
        say(f"comparison ready: {flags['out']}/comparison.html")
    return SUCCESS


def report(given: list[str]) -> int:
    from stochseg.report.page import write_report as call

    parser = new_parser("stochseg report", "Write figures and one self-contained page, RUN/report.html.")
    parser.add_argument("run", type=Path, help="run directory")
    say(f"report ready: {call(**parse(parser, given))}")
    return SUCCESS


def serve(given: list[str]) -> int:
    from stochseg.serve.server import serve as call

    parser = new_parser("stochseg serve", "Look at a model in the browser: images, samples, what lies between them.")
    parser.add_argument("run", type=Path, help="run directory or exported model")
    parser.add_argument(
        "--examples",
        nargs="+",
        metavar="IMAGE",
        default=[],
        help="images to choose from; default: those of the evaluation",
    )
    parser.add_function_arguments(call, skip={"run", "examples"})
    call(**parse(parser, given))
    return SUCCESS


def export(given: list[str]) -> int:
    from stochseg.export import checked_table
    from stochseg.export import export as call

    parser = new_parser(
        "stochseg export", "Write a model as one graph, ONNX or torch.export, and compare it with the model."
    )
    parser.add_argument("run", type=Path, help="run directory or exported model")
    parser.add_function_arguments(call, skip={"run", "calibration"})
    done = call(**parse(parser, given))
    print(checked_table(done.checked))
    say(f"graph ready: {done.file}")
    return SUCCESS


def import_official(given: list[str]) -> int:
    from stochseg.import_official import import_official as call

    parser = new_parser(
        "stochseg import-official", "Make a run of a checkpoint of the official code; nothing of the file is executed."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the checkpoint, such as LIDC_CAR_Model.pickle")
    parser.add_function_arguments(call, skip={"file"})
    flags = parse(parser, given)
    run = call(**flags)
    say(f"run ready: {run}; judge it with `stochseg evaluate {run} --data STORE --split test`")
    return SUCCESS


def demo(given: list[str]) -> int:
    from stochseg.demo import demo as call

    parser = new_parser("stochseg demo", "Generated data, training, evaluation and report in one go; no download.")
    parser.add_function_arguments(call)
    call(**parse(parser, given))
    return SUCCESS


BLACKBOX: dict[str, tuple[Command, str]] = {
    "import": (blackbox_import, "put predictions that any segmenter saved into a store"),
    "train": (blackbox_train, "train a segmenter with cross entropy"),
    "predict": (blackbox_predict, "put the predictions of a run into a store"),
}

SOURCES: dict[str, tuple[Command, str]] = {
    "lidc": (prepare_lidc, "LIDC-IDRI nodule slices: crops, archives, slice folders, the common pickle, or a .npz"),
    "folder": (prepare_folder, "images of your own with the labels of several raters: folders or a CSV, any format"),
    "cityscapes": (prepare_cityscapes, "Cityscapes, or street scenes in its layout, with classes that flip"),
    "ambiguous": (prepare_ambiguous, "generated images with an exactly known distribution of answers"),
}
SHARED = ("train", "evaluate", "sample")
"""Commands that several processes can share."""
COMMANDS: dict[str, tuple[Command, str]] = {
    "demo": (demo, "generated data, training, evaluation and report in one go"),
    "prepare": (prepare, "make a store of source files"),
    "train": (train, "train on a store, or run the regression study"),
    "blackbox": (blackbox, "a segmenter that is given and never changed, for a model on top of it"),
    "evaluate": (evaluate, "score a run on a split of a store"),
    "sample": (sample, "draw samples of images in files"),
    "calibrate": (calibrate, "temperatures of q, and sets that cover a new rater's outline"),
    "score": (score, "score predictions of any program, in folders"),
    "compare": (compare, "several runs side by side, with paired differences"),
    "report": (report, "figures and one page of a run"),
    "serve": (serve, "look at a model in the browser"),
    "export": (export, "write a model as one graph for other software: ONNX, torch.export"),
    "import-official": (import_official, "make a run of a checkpoint of the official code"),
}

if __name__ == "__main__":
    sys.exit(main())
