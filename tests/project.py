"""A copy of this repository that tests run commands in."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = "tests/config/tiny.yaml"
# Archives that tests make themselves, or copy where they need them: all but the companion of TINY.
PROFILES = tuple(
    f"results/archive/{path.stem}/"
    for path in sorted(ROOT.glob("config/*.yaml"))
    if path.stem != "cifar10-subset"
)


@dataclass(frozen=True)
class Project:
    """A working copy; commands use its own sources and this interpreter's packages."""

    path: Path

    @classmethod
    def clone(cls, path: Path) -> "Project":
        """The files that git tracks or would track, as they are in the working tree, in a new repository."""
        names = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for name in names:
            source = ROOT / name
            if name.startswith(PROFILES) or not (source.exists() or source.is_symlink()):
                continue
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path / name, follow_symlinks=False)
        project = cls(path)
        project.run("git", "init", "--quiet", "--initial-branch=main")
        project.commit("copy")
        return project

    def copy(self, path: Path) -> "Project":
        """All its files, what was computed as well, with their time stamps."""
        shutil.copytree(self.path, path, symlinks=True)
        return Project(path)

    def environment(self, **variables: str) -> dict[str, str]:
        binaries = str(Path(sys.executable).parent)
        return os.environ | {
            "PATH": binaries + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": str(self.path / "src"),
            "OMP_NUM_THREADS": "1",
            # Snakemake keeps its source cache here; tests leave the user's alone.
            "XDG_CACHE_HOME": str(self.path.parent / "cache"),
            **variables,
        }

    def run(
        self, *command: str, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
            )
        return done

    def snakemake(
        self,
        *targets: str,
        options: tuple[str, ...] = (),
        configfile: str = TINY,
        config: str = "source=archive",
        check: bool = True,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Make these targets with this configuration."""
        command = ("snakemake", "--configfile", configfile, "--config", *config.split())
        command += ("--cores", "2", *options, "--", *targets)
        return self.run(*command, check=check, **variables)

    def commit(self, message: str) -> None:
        identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
        self.run("git", "add", "--all")
        self.run("git", *identity, "commit", "--quiet", "--allow-empty", "-m", message)

    def planned_rules(
        self, *targets: str, configfile: str = TINY, config: str = "source=archive"
    ) -> set[str]:
        """The rules that a dry run would execute."""
        return set(self.planned_jobs(*targets, configfile=configfile, config=config))

    def planned_jobs(
        self, *targets: str, configfile: str = TINY, config: str = "source=archive"
    ) -> dict[str, int]:
        """The number of jobs of each rule that a dry run would execute."""
        done = self.snakemake(
            *targets,
            options=("--dry-run", "--quiet", "host"),
            configfile=configfile,
            config=config,
        )
        lines = done.stdout.splitlines()
        jobs = {}
        for index, line in enumerate(lines):
            if line.startswith("---"):
                for row in lines[index + 1 :]:
                    if not row.strip() or row.startswith("total"):
                        break
                    rule, count = row.split()
                    jobs[rule] = int(count)
                break
        return jobs

    def checksums(self, folder: str, *, suffixes: tuple[str, ...]) -> dict[str, str]:
        """sha256 of every file with one of these endings below a folder."""
        root = self.path / folder
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.suffix in suffixes and path.is_file()
        }
