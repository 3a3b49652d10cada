import re
import subprocess

from utils import record


def test_a_copy_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    copy = tmp_path / "outer/copy"
    copy.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path / "outer"), "-c", "user.name=a", "-c", "user.email=a"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(record, "__file__", str(tmp_path / "outer/utils/record.py"))
    assert re.fullmatch("[0-9a-f]{40}", record.git_commit())
    monkeypatch.setattr(record, "__file__", str(copy / "utils/record.py"))
    assert record.git_commit() == "unknown"
