"""The contract of engines: every part is done or its failure told, whoever dies, hangs or is stopped."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskwright.errors import RecipeError
from maskwright.runs.sharing import Sharing
from maskwright.weak.engines import ENGINES
from maskwright.weak.engines.task import task_of

# Written to a file, since workers import it by its name.
JOB = '''
import os, signal, time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from maskwright.errors import DataError, MaskwrightError


@dataclass(frozen=True)
class Toy:
    """Writes a file for each part; what its name begins with says what goes wrong."""

    folder: str
    broken: str = ""

    def open(self, device):
        if self.broken == "raise":
            raise DataError("there is no network")
        if self.broken == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work

    def work(self, part):
        first = self.once(part)
        if part.startswith("poison"):
            raise ValueError("a torn file")
        if part.startswith("deadly") or (part.startswith("mortal") and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if part.startswith("hang") and first:
            time.sleep(600)
        if part.startswith("slow"):
            time.sleep(0.2)
        temporary = Path(self.folder, f".{part}.{os.getpid()}")
        temporary.write_text(part)
        os.replace(temporary, Path(self.folder, part))

    def once(self, part):
        try:
            os.close(os.open(Path(self.folder, f"begun-{part}"), os.O_CREAT | os.O_EXCL))
            return True
        except FileExistsError:
            return False

    def is_done(self, part):
        return Path(self.folder, part).is_file()

    def failed(self, part, why):
        Path(self.folder, f"failed-{part}").write_text(why)
'''

SHARING = {"local": {"workers": 2}, "ray": {"workers": 2}, "task": {"task": "0/2"}}
# Ray is not imported here: where it listens is settled then.
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
RAY = pytest.param("ray", marks=NEEDS_RAY)
OWN_WORKERS = ("local", RAY)  # engines whose main process outlives a worker


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy_of_engines.py").write_text(JOB)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "code"), *sys.path]))  # Ray's workers start anew
    sys.modules.pop("toy_of_engines", None)
    from toy_of_engines import Toy

    (tmp_path / "out").mkdir()

    def make(**options):
        return Toy(str(tmp_path / "out"), **options)

    return make


@pytest.fixture(params=["local", "task", RAY])
def engine(request):
    return request.param


def shared(engine, job, parts):
    told = []
    sharing = Sharing(engine=engine, device="cpu", **SHARING[engine])
    ENGINES[engine](job, parts, sharing, lambda: told.append(1))
    return len(told)


def done(job):
    return sorted(
        path.name for path in Path(job.folder).iterdir() if not path.name.startswith(("begun-", "failed-", "."))
    )


def why(job, part):
    path = Path(job.folder, f"failed-{part}")
    return path.read_text() if path.is_file() else None


def test_every_part_is_done_and_told(engine, toy):
    job, parts = toy(), [f"part-{number}" for number in range(7)]
    assert shared(engine, job, parts) == 7
    assert done(job) == parts


def test_a_poisoned_part_is_reported_and_passed_over(engine, toy):
    job = toy()
    assert shared(engine, job, ["a", "poison", "b"]) == 3
    assert done(job) == ["a", "b"]
    assert why(job, "poison") == "ValueError: a torn file"


@pytest.mark.parametrize("engine", OWN_WORKERS, indirect=True)
def test_a_worker_that_dies_costs_its_part_alone_which_another_does(engine, toy):
    job = toy()
    shared(engine, job, ["a", "mortal", "b", "c"])
    assert done(job) == ["a", "b", "c", "mortal"]
    assert why(job, "mortal") is None


@pytest.mark.parametrize("engine", OWN_WORKERS, indirect=True)
def test_a_part_over_which_every_worker_dies_is_reported(engine, toy):
    job = toy()
    shared(engine, job, ["a", "deadly", "b"])
    assert done(job) == ["a", "b"]
    assert "2 workers died over it" in why(job, "deadly")


@pytest.mark.parametrize("engine", OWN_WORKERS, indirect=True)
def test_a_worker_that_hangs_holds_nothing(engine, toy):
    job, began = toy(), time.monotonic()
    assert shared(engine, job, ["hang", "a", "b"]) == 3
    assert done(job) == ["a", "b", "hang"]
    assert time.monotonic() - began < 300  # it sleeps for 600 s


@pytest.mark.parametrize("engine", OWN_WORKERS, indirect=True)
def test_what_cannot_be_loaded_is_said_once(engine, toy):
    with pytest.raises(Exception, match="there is no network"):
        shared(engine, toy(broken="raise"), ["a", "b", "c"])


@pytest.mark.parametrize("engine", OWN_WORKERS, indirect=True)
def test_workers_that_die_at_once_end_the_work(engine, toy):
    with pytest.raises(Exception, match="workers die before they begin"):
        shared(engine, toy(broken="die"), ["a", "b"])


LISTENING = """
import os
from importlib.util import find_spec
from pathlib import Path

def family():
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # it ended meanwhile
    found = {os.getpid()}
    for _ in range(4):
        found |= {process for process, parent in parents.items() if parent in found}
    return found

def sockets(process):
    try:
        return {os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()}
    except OSError:
        return set()

def listening():
    own = set().union(*map(sockets, family()))
    rows = [row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    print(sorted({row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}))

from toy_of_engines import Toy
from maskwright.runs.sharing import Sharing
from maskwright.weak.engines import ENGINES
ENGINES["ray"](Toy("out"), ["a"], Sharing(engine="ray", workers=1, device="cpu"), listening)
"""


@NEEDS_RAY
@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="Linux tells who listens where")
def test_ray_listens_on_this_machine_alone(toy, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = subprocess.run(
        [sys.executable, "-c", LISTENING], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert told.returncode == 0, told.stderr
    found = ast.literal_eval(told.stdout)
    assert set(found) <= {"0100007F", "0" * 16 + "FFFF00000100007F", "0" * 24 + "01000000"}
    assert found


def test_killed_in_the_middle_it_goes_on(toy, tmp_path):
    code = (
        "from toy_of_engines import Toy; from maskwright.weak.engines import ENGINES; "
        "from maskwright.runs.sharing import Sharing\n"
        "if __name__ == '__main__':\n"
        f"    job = Toy({str(tmp_path / 'out')!r}); parts = [f'slow-{{n}}' for n in range(8)]\n"
        "    left = [part for part in parts if not job.is_done(part)]\n"
        "    ENGINES['local'](job, left, Sharing(workers=2, device='cpu'), lambda: print('told', flush=True))\n"
    )
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, str(tmp_path / "main.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # the first part is done
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert done(toy()) == [f"slow-{number}" for number in range(8)]


def test_tasks_do_their_own_parts_first_and_then_what_others_left(toy):
    job, parts = toy(), [f"part-{number}" for number in range(6)]
    order = []
    sharing = Sharing(engine="task", task="1/3", device="cpu")

    class Watched(type(job)):
        def open(self, device):
            return lambda part: (order.append(part), self.work(part))

    Path(job.folder, "part-0").write_text("done by another")
    ENGINES["task"](Watched(job.folder), parts, sharing, lambda: None)
    assert order[:2] == ["part-1", "part-4"]
    assert sorted(order) == ["part-1", "part-2", "part-3", "part-4", "part-5"]
    assert Path(job.folder, "part-0").read_text() == "done by another"


@pytest.mark.parametrize("text", [None, "", "3", "3/3", "-1/3", "a/b", "1/0"])
def test_a_task_that_cannot_be_is_refused(text):
    with pytest.raises(RecipeError, match="task=i/N"):
        task_of(text)


def test_torchrun_needs_torchrun(toy):
    with pytest.raises(RecipeError, match="engine=local"):
        ENGINES["torchrun"](toy(), ["a"], Sharing(engine="torchrun"), lambda: None)


def test_ray_that_is_missing_is_named(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"maskwright\[ray\]"):
        ENGINES["ray"](toy(), ["a"], Sharing(engine="ray"), lambda: None)


class Stopped(Exception):
    """What SIGTERM raised before there was Ray."""


@pytest.fixture
def ray_alone(monkeypatch):
    """In the place of Ray: it takes SIGTERM for itself, as Ray does, and can do no more than begin."""

    def told(number, frame):
        sys.exit(number)

    def init(**options):
        signal.signal(signal.SIGTERM, told)
        ray.options = options
        if ray.told_to_stop:
            signal.raise_signal(signal.SIGTERM)

    def stop(number, frame):
        raise Stopped

    util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
    ray = SimpleNamespace(
        init=init, util=util, shutdown=lambda: None, told_to_stop=False
    )  # no `remote`: it cannot work
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    before = signal.signal(signal.SIGTERM, stop)
    yield ray
    signal.signal(signal.SIGTERM, before)


def test_a_stop_is_still_a_stop_beside_ray(toy, ray_alone):
    with pytest.raises(AttributeError, match="remote"):
        shared("ray", toy(), ["a"])
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)


def test_a_stop_while_ray_begins_is_one(toy, ray_alone):
    ray_alone.told_to_stop = True
    with pytest.raises(Stopped):
        shared("ray", toy(), ["a"])


def test_ray_without_an_address_joins_no_cluster_that_is_there(toy, ray_alone):
    with pytest.raises(AttributeError, match="remote"):
        shared("ray", toy(), ["a"])
    assert ray_alone.options["address"] == "local"
