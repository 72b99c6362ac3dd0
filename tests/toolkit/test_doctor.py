"""Each check of the doctor on an installation that is broken in that way for real."""

import inspect
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from toolkit import doctor
from toolkit.installation import compute, packages, storage
from toolkit.installation.finding import INSTALL, REINSTALL, Finding

ROOT = Path(__file__).resolve().parents[2]


def run(*options, **environment):
    command = [sys.executable, *options, "-m", "toolkit.doctor"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


@pytest.fixture
def install(tmp_path, monkeypatch):
    "Return a function install(name, version): that distribution is then found before those really installed."
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, version, *requires):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *map("Requires-Dist: {}".format, requires),
        ]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")

    return write


def states(findings):
    return [finding.state for finding in findings]


def only(findings):
    (finding,) = findings
    return finding


@pytest.mark.long
def test_this_installation_is_well_with_a_line_for_each_check():
    done = run()
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "all well"
    assert {line[:6].strip() for line in done.stdout.splitlines()[:-1]} <= {"ok", "note", ""}
    assert f"torch {metadata.version('torch')}" in done.stdout


def test_an_unknown_flag_is_the_users_error():
    done = subprocess.run([sys.executable, "-m", "toolkit.doctor", "--fix"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "unknown flag --fix" in done.stderr) == (2, True)


def test_with_nothing_installed_it_still_reports_and_ends_with_2(tmp_path):
    shutil.copytree(ROOT / "toolkit", tmp_path / "toolkit", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-S", "-m", "toolkit.doctor"]  # -S: no site-packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert "rapid-finetune is not installed" in done.stdout
    assert INSTALL in done.stdout
    assert "torch cuda: ModuleNotFoundError: No module named 'torch'" in done.stdout


def test_a_python_that_is_too_old_is_wrong():
    assert only(packages.python((3, 11, 0))).state == "ok"
    finding = only(packages.python((3, 10, 14)))
    assert finding.state == "wrong"
    assert "Python 3.10.14" in finding.text
    assert "3.11 or later" in finding.text


def test_a_version_out_of_range_is_wrong_with_the_command_that_repairs_it(install):
    install("albumentations", "2.0.9")
    finding = only(packages.versions())
    assert finding == (
        "wrong",
        "albumentations 2.0.9: ==2.0.8 is needed",
        "pip install 'albumentations==2.0.8' -c constraints.txt",
    )


def test_a_dependency_that_is_not_installed_is_wrong(install):
    install("rapid-finetune", "9", "no-such-library>=1.2", "numpy>=1", 'pytest>=999; extra == "dev"')
    finding = only(packages.versions())
    assert finding.text == "no-such-library is not installed"
    assert finding.fix == "pip install 'no-such-library>=1.2' -c constraints.txt"


def test_a_requirement_for_another_system_does_not_count(install):
    other = "win32" if sys.platform != "win32" else "linux"
    install("rapid-finetune", "9", f"no-such-library; sys_platform == '{other}'", "numpy")
    assert states(packages.versions()) == ["ok"]


def test_a_pre_release_within_the_range_is_taken(install):
    install("numpy", "3.0.0rc1")
    assert list(packages.version(Requirement("numpy>=2.0"))) == []


def test_two_opencvs_of_different_versions_are_wrong_and_the_newer_is_proposed(install):
    install("opencv-python", "4.9.0.80")
    install("opencv-python-headless", "4.10.0.84")
    finding = only(packages.opencv())
    assert finding.state == "wrong"
    assert "opencv-python 4.9.0.80 and opencv-python-headless 4.10.0.84" in finding.text
    assert finding.fix.endswith("--no-deps opencv-python==4.10.0.84 opencv-python-headless==4.10.0.84")


def test_onnxruntime_twice_is_wrong(install):
    assert states(packages.onnxruntimes()) == ["ok"]
    install("onnxruntime", "1.31.1")
    install("onnxruntime-gpu", "1.31.1")
    finding = only(packages.onnxruntimes())
    assert finding.state == "wrong"
    assert finding.fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && ")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    "The output of the command if torchvision, cv2 and tyro are broken, each in its own way."
    folder = tmp_path_factory.mktemp("broken")
    (folder / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    (folder / "tyro.py").write_text("raise ImportError('half installed')\n")
    (folder / "torchvision").mkdir()  # describes operators, as the real one does, which an unfit compiled part lacks
    (folder / "torchvision/__init__.py").write_text(
        "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(*boxes): pass\n"
    )
    return run(PYTHONPATH=str(folder))


def test_a_torchvision_built_for_another_torch_is_reported_as_that(broken):
    assert broken.returncode == 2
    assert "operator torchvision::nms does not exist: torchvision was built for another torch" in broken.stdout
    assert REINSTALL["torchvision"] in broken.stdout
    assert "Traceback" not in broken.stdout + broken.stderr


def test_an_import_that_breaks_in_any_way_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_one.py").write_text("raise OSError('libGL.so.1: cannot open shared object file')\n")
    (tmp_path / "broken_two.py").write_text("1 +\n")
    for module, reason in (("broken_one", "OSError: libGL.so.1"), ("broken_two", "SyntaxError: invalid syntax")):
        finding = only(packages.importable(module))
        assert finding.state == "wrong"
        assert f"import {module} fails: {reason}" in finding.text


def test_a_broken_cv2_is_repaired_by_the_headless_package(broken):
    assert (
        f"import cv2 fails: ImportError: libGL.so.1: cannot open shared object file\n       {REINSTALL['cv2']}"
        in broken.stdout
    )


def test_it_reports_without_tyro_which_reads_its_command_line(broken):
    assert (broken.returncode, broken.stderr) == (2, "")
    assert "import tyro fails: ImportError: half installed" in broken.stdout


def test_without_a_gpu_torch_and_onnxruntime_give_a_note_and_name_the_provider_of_a_session(monkeypatch):
    import onnxruntime

    if compute.gpus():
        pytest.skip("there is a GPU")
    for check in (compute.torch_cuda, compute.onnxruntime_cuda):
        finding = only(check())
        assert (finding.state, finding.fix) == ("note", "")
        assert "no NVIDIA GPU" in finding.text
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():  # which proves nothing
        assert compute._provider("CUDAExecutionProvider") == "CPUExecutionProvider"


@pytest.mark.gpu
def test_with_a_gpu_torch_and_onnxruntime_run_on_it():
    if not compute.gpus():
        pytest.skip("needs an NVIDIA GPU")
    assert states([*compute.torch_cuda(), *compute.onnxruntime_cuda()]) == ["ok", "ok"]


def test_the_library_that_the_system_cannot_load_is_named(tmp_path):
    if sys.platform != "linux":
        pytest.skip("Linux's loader tells")
    (tmp_path / "libonnxruntime_providers_shared.so").write_bytes(b"cut short")
    assert "libonnxruntime_providers_shared.so" in compute._missing_library(tmp_path)


def test_bf16_is_reported_if_this_cpu_has_it():
    from toolkit.learner.device import cpu_has_bf16

    assert only(compute.processor()).state == ("ok" if cpu_has_bf16() else "note")


def test_a_disk_with_little_room_is_a_note(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    assert float(only(storage.disk(tmp_path)).text.split()[0]) == pytest.approx(free / 1e9, abs=5)  # others write too
    monkeypatch.setattr(storage, "ROOM", free * 2)
    assert only(storage.disk(tmp_path)).state == "note"


def test_imagenet_weights_are_looked_for_in_the_hub_cache(tmp_path):
    code = "from toolkit.installation import storage; print(*storage.hub(), sep='|')"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path)}

    def report():
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.stdout

    assert "state='note'" in report()
    assert f"hf download timm/{storage.ARCH}" in report()
    held = tmp_path / f"models--timm--{storage.ARCH}"  # the hub cache's own layout
    (held / "snapshots" / "1234").mkdir(parents=True)
    (held / "snapshots" / "1234" / "model.safetensors").write_bytes(b"weights")
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("1234")
    assert "state='ok'" in report()
    assert str(tmp_path) in report()


def test_the_weights_it_looks_for_are_of_hw1s_network():
    from recipes import hw1

    assert inspect.signature(hw1.learner).parameters["arch"].default == storage.ARCH


def test_a_check_that_raises_is_a_finding():
    def no_such_disk():
        return storage.disk(Path("/no/such/folder"))

    finding = only(doctor.examine(no_such_disk))
    assert finding.state == "wrong"
    assert finding.text.startswith("no such disk: FileNotFoundError")


def test_only_wrong_ends_with_2():
    ok, note, wrong = (Finding(state, "") for state in ("ok", "note", "wrong"))
    assert (doctor.exit_status([ok, note]), doctor.exit_status([ok, wrong])) == (0, 2)
