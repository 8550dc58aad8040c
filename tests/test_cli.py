from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from typer.testing import CliRunner

from maskwright.cli import app
from maskwright.cli.completion import complete
from maskwright.cli.endings import in_words
from maskwright.cli.words import VERBS, read
from maskwright.errors import DataError, RecipeError
from maskwright.recipe.describe import settings_of
from maskwright.recipe.load import apply_override, load_recipe, recipe_names

runner = CliRunner()
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MASKWRIGHT_TENSORBOARD": "0"}


def printed(*words):
    result = runner.invoke(app, list(words))
    assert result.exit_code == 0, result.exception
    return result.output


def refused(*words):
    result = runner.invoke(app, list(words))
    assert isinstance(result.exception, RecipeError | DataError), result.output
    return str(result.exception)


def process(*words, code=None, **options):
    """The command in a process of its own; `code` is run before it."""
    start = ["-m", "maskwright"] if code is None else ["-c", f"{code}\nfrom maskwright.cli import main; main()"]
    return subprocess.run(
        [sys.executable, *start, *words], capture_output=True, text=True, timeout=120, env=ENVIRONMENT, **options
    )


def test_import_help_and_lists_do_not_import_torch():
    for words, bad in (
        (["--help"], ("torch", "numpy", "pydantic", "PIL", "matplotlib", "numba", "yaml")),
        ([], ("torch", "numpy", "yaml")),
        (["recipes", "ls"], ("torch", "numpy", "PIL")),
    ):
        code = (
            "import sys, maskwright, maskwright.cli; from typer.testing import CliRunner;"
            f"r = CliRunner().invoke(maskwright.cli.app, {words}); assert r.exit_code == 0, r.output;"
            f"bad = [m for m in {bad} if m in sys.modules]; assert not bad, bad"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.versions
def test_alone_it_prints_the_three_commands():
    lines = printed().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  maskwright")] == ["label", "run", "predict"]
    assert len(lines) <= 8
    assert "maskwright --help" in lines[-1]


@pytest.mark.versions
def test_every_line_of_the_help_stands_alone():
    lines = printed("--help").partition("Commands:")[2].strip().splitlines()
    assert len(lines) == len({name.split()[0] for name in VERBS})
    assert all(line.endswith(".") and "..." not in line for line in lines)


@pytest.mark.versions
def test_help_of_a_verb_shows_its_words_with_defaults_and_meaning():
    text = printed("predict", "--help")
    assert "RUN IMAGES... [KEY=VALUE]..." in text
    for key, option in VERBS["predict"].options.items():
        line = next(line for line in text.splitlines() if line.startswith(f"  {key}="))
        assert line.endswith(option.meaning)


# Words.


def test_settings_options_and_paths_in_any_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["out=here", "runs/a", "device=cpu", "./a=b.jpg", "inference.flip=true", "x y=1.jpg", "overlay=no"]
    given = read("predict", words)
    defaults = {key: option.default for key, option in VERBS["predict"].options.items()}
    assert given.names == ["runs/a", "./a=b.jpg", "x y=1.jpg"]
    assert given.settings == ["inference.flip=true"]
    assert given.options == {**defaults, "out": "here", "device": "cpu", "overlay": False}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "run", "a.jpg", "probs=true"], "Did you mean 'probabilities'"),
        (["predict", "run", "a.jpg", "flip=true"], "Did you mean 'inference.flip'"),
        (["predict", "run", "a.jpg", "epochs=3"], "epochs is a setting of other verbs"),
        (["predict", "run", "a.jpg", "overlay=maybe"], "overlay must be true or false, found 'maybe'"),
        (["predict", "run"], "IMAGES is missing; expected: maskwright predict RUN IMAGES..."),
        (["explain", "run", "a.jpg", "clas=cat"], "Did you mean 'class'"),
        (["seeds", "run", "treshold=0.3"], "Did you mean 'threshold'"),
        (["evaluate", "run", "devise=cpu"], "Did you mean 'device'"),
        (["ceiling", "scenes", "dim=wide"], "dim must be a whole number, found 'wide'"),
        (["ceiling", "scenes", "dimm=3"], "Did you mean 'dim'"),
        (["ceiling"], "DATA is missing"),
        (["saliency", "scenes", "detektor=x"], "Did you mean 'detector'"),
        (["compare", "cam", "random_sedes=1"], "Did you mean 'random_seeds'"),
        (["study", "bce-sce", "repeat=2"], "Did you mean 'repeats'"),
        (["data", "check", "photos", "tag=x"], "Did you mean 'tags'"),
        (["data", "check", "photos", "tags.csv", "more"], "one name too many"),
        (["data", "check", "photos", "tags.csv", "data=scenes"], "one name too many"),
        (["run", "cam", "photos/"], "data=photos/"),
        (["run", "cam", "pln=true"], "Did you mean 'plan'"),
        (["run", "cam", "--epochs=3"], "key=value, as in epochs=3"),
        (["recipes", "show", "cam", "x=1"], "it takes none"),
        (["settings", "cam", "jsn=true"], "Did you mean 'json'"),
    ],
)
def test_wrong_words_are_refused_with_the_nearest(words, said):
    assert said in refused(*words)


def test_a_file_whose_name_is_taken_for_a_setting_is_told_how_to_name_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.jpg").write_bytes(b"")
    assert refused("predict", "run", "a=b.jpg").endswith("The file of that name is ./a=b.jpg")


@pytest.mark.parametrize(
    "words", [["photos"], ["data=photos"], ["tags.csv", "data=photos"], ["photos", "tags=tags.csv"]]
)
def test_data_check_takes_its_data_by_place_or_by_key(tmp_path, monkeypatch, words):
    from maskwright.data import check as module

    seen = []
    monkeypatch.setattr(module, "check", lambda data, splits: seen.append(data) or [])
    monkeypatch.setattr(module, "report", lambda findings: "fine")
    assert printed("data", "check", *words) == "fine\n"
    assert seen[0].root == "photos"
    assert seen[0].tags == ("tags.csv" if any("tags" in word for word in words) else None)


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """A folder with photographs beside which one may type, and the recipe that `maskwright label` was given last."""
    from maskwright.cli import photographs
    from maskwright.plan import dryrun

    (tmp_path / "photos").mkdir()
    (tmp_path / "2024").mkdir()
    (tmp_path / "tags.csv").write_text("image,tags\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(photographs, "QUICKEST", "cam")
    seen = []
    monkeypatch.setattr(dryrun, "dry_run", lambda recipe, say: seen.append(recipe))

    def label(*words):
        printed("label", *words, "dry_run=true")
        recipe = seen.pop()
        return recipe.name, recipe.data.root, recipe.data.tags, recipe.out

    return label


def test_label_takes_a_folder_and_its_tags_in_place_of_a_recipe(labelled):
    assert labelled("photos/", "tags.csv") == ("cam", "photos/", "tags.csv", "runs/photos")
    assert labelled("photos/", "tags=tags.csv") == ("cam", "photos/", "tags.csv", "runs/photos")
    assert labelled("2024") == ("cam", "2024", None, "runs/2024")
    assert labelled("scenes", "out=here") == ("cam", "scenes", None, "here")
    assert labelled(".")[3] == f"runs/{os.path.basename(os.getcwd())}"
    assert labelled("photos", "tags.csv", "recipe=recam-irn") == (
        "recam-irn", "photos", "tags.csv", "runs/photos-recam-irn",
    )  # fmt: skip
    assert labelled("recam", "data=photos")[:2] == ("recam", "photos")


@pytest.mark.parametrize(
    ("files", "words", "splits"),
    [
        ((), (), ("all", "all")),
        ((), ("data.val=all",), ("train", "all")),
        (("train.txt", "val.txt"), (), ("train", "val")),
        (("masks/0.png", "masks/1.png", "masks/2.png"), (), ("train", "val")),
    ],
)
def test_label_takes_every_image_where_nothing_could_judge_the_rest(tmp_path, files, words, splits):
    from maskwright.cli.photographs import all_of_a_folder
    from maskwright.recipe.load import load_recipe

    photos = tmp_path / "photos"
    for name in (*(f"images/{number}.png" for number in range(9)), *files):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("L" if "masks" in name else "RGB", (8, 8)).save(photos / name)
        else:
            (photos / name).write_text("0\n1\n")
    (photos / "classes.txt").write_text("background\ncat\n")
    (photos / "tags.csv").write_text("image,tags\n" + "".join(f"{number},cat\n" for number in range(9)))
    given = [f"data={photos}", f"tags={photos / 'tags.csv'}", *words]
    data = load_recipe("cam", [*all_of_a_folder("cam", given), *given]).data
    assert (data.train, data.val) == splits


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["phots/"],
            "phots/ is neither a folder nor a recipe: unknown folder or recipe 'phots/'. Did you mean 'photos/'",
        ),
        (["recm"], "Did you mean 'recam'"),
        (["tags.csv", "photos"], "tags.csv is a file; a folder of images comes first"),
        (["cam", "photos"], "one name too many: cam is a recipe, which takes data="),
        (["cam", "recipe=recam"], "two recipes are given: cam and recipe=recam"),
        (["photos", "data=scenes"], "'data=scenes' is given as 'photos' already"),
        (["photos", "tags.csv", "data.tags=x.csv"], "'data.tags=x.csv' is given as 'tags.csv' already"),
        (["photos", "recipe=recm"], "Did you mean 'recam'"),
        ([], "RECIPE|DATA is missing"),
    ],
)
def test_label_refuses_what_is_neither_folder_nor_recipe(labelled, words, said):
    assert said in refused("label", *(words or ["dry_run=true"]))


@pytest.mark.parametrize(
    ("verb", "module", "function"),
    [
        (["predict", "run", "a.jpg"], "maskwright.inference.load", "load"),
        (["explain", "run", "a.jpg"], "maskwright.inference.load", "load"),
        (["evaluate", "run"], "maskwright.pipeline.evaluate", "evaluate_run"),
        (["seeds", "run"], "maskwright.pipeline.evaluate", "judge_seeds"),
        (["saliency", "scenes"], "maskwright.weak.saliency", "write_saliency"),
    ],
)
def test_device_reaches_what_computes(monkeypatch, verb, module, function):
    import importlib

    def seen(*_, **options):
        raise DataError(f"on {options['device']}")

    monkeypatch.setattr(importlib.import_module(module), function, seen)
    assert refused(*verb, "device=cuda:7") == "on cuda:7"


@pytest.mark.parametrize("verb", ["run", "train", "label"])
@pytest.mark.parametrize("word", ["dry_run=true", "--dry-run"])
def test_one_spelling_of_dry_run_and_the_old_one_with_a_line(monkeypatch, verb, word):
    from maskwright.plan import dryrun

    seen = []
    monkeypatch.setattr(dryrun, "dry_run", lambda recipe, say: seen.append(recipe.name))
    result = runner.invoke(app, [verb, "demo", word])
    assert (result.exit_code, seen) == (0, ["demo"])
    assert ("is spelled dry_run=true" in result.output) == word.startswith("-")


# Recipes and settings.


@pytest.mark.versions
def test_recipes_ls_show_cp(tmp_path):
    target = tmp_path / "mine.yaml"
    assert str(target) in printed("recipes", "cp", "demo", str(target))
    assert target.read_text() == printed("recipes", "show", "demo")
    again = runner.invoke(app, ["recipes", "cp", "demo", str(target)])
    assert "exists" in str(again.exception)


def test_recipes_are_grouped_by_their_data_and_filtered_by_words():
    text = printed("recipes", "ls")
    heads = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert heads[:3] == ["Your own photographs", "No data needed: the built-in scenes", "PASCAL VOC 2012"]
    own = text.partition("\n\n")[0].splitlines()[1:]
    assert {line.split()[0] for line in own} == {
        *("cam", "instant", "cam-scratch", "recam", "l2g", "seam", "eps", "edam", "saliency", "deeplabv3plus-quick"),
        "deeplabv3plus-scratch",
        *("cam-irn", "recam-irn", "advcam-irn", "cam-psa"),
    }
    rows = [line for line in text.splitlines() if line.startswith(" ")]
    assert sorted(line.split()[0] for line in rows) == recipe_names()
    assert len({len(line) - len(line[2:].partition(" ")[2].lstrip()) for line in rows}) == 1  # one column
    assert "`" not in text
    found = printed("recipes", "ls", "voc", "irn").splitlines()
    assert found[0] == "PASCAL VOC 2012"
    assert all("irn" in line.lower() for line in found[1:])
    assert "no recipe has 'nothing'" in refused("recipes", "ls", "nothing")


@pytest.mark.versions
def test_settings_show_value_type_default_and_meaning():
    line = next(
        line for line in printed("settings", "cam-scratch").splitlines() if line.startswith("classifier.train.lr ")
    )
    value, kind = line.split(maxsplit=2)[1:]
    assert value == "0.001"
    assert kind.startswith("number > 0 (default 0.01); ")
    assert "recam.sce_weight" not in printed("settings", "cam")
    assert "recam.sce_weight" in printed("settings", "cam", "all=true")
    assert "recam.sce_weight" in printed("settings", "recam")
    assert "classifier.backbone" not in printed("settings", "voc-deeplabv3")
    (line,) = printed("settings", "cam", "train.epochs=7", "(epochs").splitlines()
    assert line.split(maxsplit=3)[:3] == ["train.epochs", "(epochs)", "7.0"]
    assert "no setting of cam has 'nothing'" in refused("settings", "cam", "nothing")


@pytest.mark.parametrize("name", ["cam", "recam-irn", "voc-l2g", "cityscapes-hmsa"])
def test_every_listed_setting_can_be_typed_as_it_is_shown(name):
    recipe = load_recipe(name)
    words = [f"{setting.key}={setting.value}" for setting in settings_of(recipe) if setting.value]
    assert len(words) > 80
    whole = [word for word in words if not word.startswith(("expected=", "source=", "notes=")) and "={" not in word]
    assert load_recipe(name, whole) == recipe


def test_json_schema_has_the_keys_of_a_file_and_no_others():
    schema = json.loads(printed("settings", "recam", "json=true"))
    assert set(schema["properties"]) == {*type(load_recipe("recam")).model_fields, "extends", "segmenter"}
    assert schema["additionalProperties"] is False
    assert {"type": "string", "description": "data.root alone"} in schema["properties"]["data"]["anyOf"]
    assert schema["$defs"]["TrainSettings"]["properties"]["optimizer"]["enum"] == ["sgd", "adamw"]


@pytest.mark.versions
def test_completion_of_recipes_runs_and_keys(tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "recipe.yaml").write_text("name: mine\n")
    monkeypatch.chdir(tmp_path)
    assert complete("run", [], "recam") == ["recam", "recam-irn"]
    assert complete("predict", [], "") == ["runs/mine"]
    assert complete("run", ["recam"], "recam.train.f") == ["recam.train.frozen="]
    assert "seam.train.lr=" in complete("run", ["seam"], "seam.train.l")
    assert complete("run", ["cam"], "recam.train.f") == []
    assert "classifier.train.lr=" in complete("run", ["recam-irn"], "classifier.train.l")
    assert complete("predict", ["runs/mine", "a.jpg"], "inference.f") == ["inference.flip="]
    assert complete("predict", ["runs/mine"], "prob") == ["probabilities="]
    assert complete("run", ["cam"], "segm") == ["segmenter="]
    assert complete("evaluate", ["runs/mine"], "segm") == []
    for key in complete("run", ["recam-irn"], ""):
        if key.rstrip("=") not in (*VERBS["run"].options, "segmenter"):
            apply_override({}, f"{key}none")


@pytest.mark.versions
def test_a_shell_gets_its_completions():
    """Without PyTorch, which would take seconds."""
    environment = {"_MASKWRIGHT_COMPLETE": "complete_bash", "COMP_WORDS": "maskwright run voc-rec", "COMP_CWORD": "2"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from maskwright.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**ENVIRONMENT, **environment},
    )
    assert "voc-recam-irn" in done.stdout.split(), done.stderr
    assert done.stdout.split()[-1] == "False"


# How it ends.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "dmo"], "Did you mean 'demo'"),
        (["run", "demo", "epoch=3"], "Did you mean 'epochs'"),
        (["recipes", "cp", "cam", "nodir/x.yaml"], "nodir/x.yaml: the folder nodir does not exist"),
        (["run", "demo", "out=file/run"], "file stands where a folder should be"),
        (["run", "file.yaml"], "file.yaml is not valid YAML"),
    ],
)
@pytest.mark.versions
def test_mistakes_are_one_line_and_exit_code_two(tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "file.yaml").write_bytes(b"\xff\xfe\xff")
    result = process(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x", "runs/a/.state.12.tmp.pt"), "runs/a/state.pt: the disk is full"),
        (OSError(errno.EROFS, "x", "runs/a"), "runs/a: the file system is read-only"),
        (PermissionError(errno.EACCES, "x", "runs/a"), "runs/a: permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "x", "a/b"), "a/b: a file stands where a folder should be"),
        (FileExistsError(errno.EEXIST, "x", "a"), "a: a file stands where a folder should be"),
        (OSError("no answer from the server"), "no answer from the server"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 50 vs 40"), "the disk is full"),
        (RuntimeError("unable to open shared memory object: Too many open files (24)"), "too many files are open"),
        (MemoryError(), "out of memory"),
    ],
)
def test_errors_of_the_system_in_words(error, said):
    assert in_words(error).startswith(said)


def test_a_full_disk_is_said_in_words(tmp_path):
    code = """
import resource, sys, torch, maskwright.cli.verbs as verbs
def work(given, until):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    torch.save(torch.zeros(1_000_000), sys.argv[2])
verbs._run = work
"""
    result = process("run", str(tmp_path / "state.pt"), code=code)
    assert (result.returncode, result.stderr.startswith("error: the disk is full")) == (2, True), result.stderr
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "maskwright", "recipes", "ls"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (result.returncode, "the disk is full" in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("error", ["ZeroDivisionError('x')", "EOFError('x')", "KeyError('x')"])
def test_a_bug_keeps_its_traceback_and_says_that_it_is_one(error):
    code = f"""
import maskwright.cli.verbs as verbs
def broken(given, until):
    raise {error}
verbs._run = broken
"""
    result = process("run", "demo", code=code)
    assert result.returncode == 1
    assert "in broken" in result.stderr
    assert "this is a bug in maskwright" in result.stderr.splitlines()[-1]
    assert "Aborted" not in result.stderr


def test_an_error_that_leaves_a_loader_process_ends_nonetheless():
    code = """
import multiprocessing, signal, time, maskwright.cli.verbs as verbs
def broken(given, until):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True).start()
    raise OSError(24, "x", "a.npz")
verbs._run = broken
def of_torch(*_):
    raise RuntimeError("DataLoader worker is killed")
signal.signal(signal.SIGCHLD, of_torch)
"""
    result = process("run", "demo", code=code)
    assert (result.returncode, "a.npz: too many files are open" in result.stderr) == (2, True), result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_a_library_takes_for_an_error_is_a_stop(number, code):
    patch = f"""
import os, time, maskwright.cli.verbs as verbs
def library(given, until):
    try:
        os.kill(os.getpid(), {int(number)})
        time.sleep(60)
    except BaseException as error:
        raise ValueError("could not determine the shape") from error
verbs._run = library
"""
    result = process("run", "demo", code=patch)
    assert (result.returncode, "bug" in result.stderr) == (code, False), result.stderr
    assert "give the same command again to resume" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_where_python_hands_no_error_on_is_not_lost(number, code):
    patch = f"""
import os, time, maskwright.cli.verbs as verbs
class Loader:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})
        time.sleep(60)
def run(given, until):
    Loader()
    time.sleep(20)
verbs._run = run
"""
    result = process("run", "demo", code=patch)
    assert (result.returncode, "Loader" in result.stderr) == (code, False), result.stderr
    assert "give the same command again to resume" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_before_the_verb_begins_is_no_bug(number, code):
    patch = f"""
import os, typer
typer.main.get_command = lambda *_: os.kill(os.getpid(), {int(number)})
"""
    result = process("run", "demo", code=patch)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("verb", "goes_on"), [("run", True), ("settings", False)])
def test_stopped_anywhere_it_cleans_up_and_says_how_to_go_on(tmp_path, number, code, verb, goes_on):
    patch = f"""
import os, time, maskwright.cli.verbs as verbs, maskwright.recipe.load as load
from maskwright.files import atomic_write
def waiting(*_):
    with atomic_write({str(tmp_path / "state.pt")!r}) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), {int(number)})
        time.sleep(60)
load.load_recipe = waiting
"""
    result = process(verb, "demo", code=patch)
    assert result.returncode == code
    said = "stopped; give the same command again to resume" if goes_on else "stopped"
    assert result.stderr.split("\n") == ["", said, ""]
    assert not list(tmp_path.iterdir())


SMALL = [
    *(
        "data.options={count: 8, size: 64}",
        "fully_supervised=false",
        "classifier.train.epochs=500",
        "classifier.train.workers=2",
    ),
    *(
        "classifier.train.batch_size=4",
        "classifier.train.checkpoint_seconds=0",
        "classifier.train.augment.crop=[64,64]",
    ),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_whose_whole_group_is_told_to_stop_saves_and_says_so(tmp_path, number):
    command = [sys.executable, "-m", "maskwright", "run", "demo", *SMALL, "device=cpu", f"out={tmp_path / 'run'}"]
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, env=ENVIRONMENT
    )
    state = tmp_path / "run" / "classifier" / "state.pt"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None and not state.is_file():
        time.sleep(0.02)
    os.killpg(running.pid, number)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + number, said
    assert "give the same command again to resume" in said
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def test_unknown_attribute_names_the_nearest():
    import maskwright

    with pytest.raises(AttributeError, match="create_model"):
        _ = maskwright.create_mdel
