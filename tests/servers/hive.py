"""Hive for tests: a metastore and Spark's HiveServer2, each a process of its own, and Spark in the test's process."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.servers.missing import missing
from tests.servers.ports import end, free_port, wait_until_listening

_QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@dataclass(frozen=True)
class Hive:
    """Running servers over one warehouse.

    Attributes
    ----------
    folder
        Where their files are; tests may put tables' files there.
    metastore_port, server_port
        Where they listen, on 127.0.0.1.
    """

    folder: Path
    metastore_port: int
    server_port: int

    @property
    def through_spark(self) -> dict[str, Any]:
        """The settings of a connection through Spark and the metastore."""
        return {
            "type": "spark",
            "warehouse": str(self.folder / "warehouse"),
            "metastore_uris": f"thrift://127.0.0.1:{self.metastore_port}",
            "conf": {
                "spark.master": "local[2]",
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.sql.shuffle.partitions": 2,
                "spark.hadoop.hive.exec.scratchdir": str(self.folder / "scratch"),
            },
        }

    @property
    def through_server(self) -> dict[str, Any]:
        """The settings of a connection through HiveServer2."""
        return {"type": "hiveserver2", "host": "127.0.0.1", "port": self.server_port}

    def execute(self, *statements: str) -> None:
        """Run statements on the server."""
        from impala.dbapi import connect

        connection = connect("127.0.0.1", self.server_port, auth_mechanism="PLAIN", user="tests")
        cursor = connection.cursor()
        try:
            for statement in ("SET spark.sql.session.timeZone=UTC", *statements):
                cursor.execute(statement)
        finally:
            cursor.close()
            connection.close()


@contextmanager
def running_hive() -> Iterator[Hive]:
    """Start the servers, and end them, and a Spark application of this process, afterwards."""
    if find_spec("pyspark") is None or find_spec("impala") is None:
        missing("pyspark or impyla is not installed: pip install 'featurestore[hive,spark]'")
    java = shutil.which("java")
    if java is None:
        missing("Java is not installed, and Spark runs on it: apt-get install openjdk-17-jre-headless")
    import pyspark

    home = Path(pyspark.__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="hive-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        hive = Hive(folder, free_port(), free_port())
        for name, command in (("metastore", _metastore(java, home, hive)), ("server", _server(home, hive))):
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            stack.callback(end, process)
            try:
                wait_until_listening(process, hive.metastore_port if name == "metastore" else hive.server_port)
            except RuntimeError as error:
                raise RuntimeError(f"{error}\n{(folder / f'{name}.log').read_text()[-4000:]}") from None
        stack.callback(_stop_spark)
        yield hive


@pytest.fixture(scope="session")
def hive() -> Iterator[Hive]:
    """Return servers that the tests of this process share."""
    with running_hive() as servers:
        yield servers


def _metastore(java: str, home: Path, hive: Hive) -> list[str]:
    settings = {
        "javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={hive.folder / 'derby'};create=true",
        "hive.metastore.warehouse.dir": str(hive.folder / "warehouse"),
        "datanucleus.schema.autoCreateAll": "true",
        "hive.metastore.schema.verification": "false",
        "hive.async.log.enabled": "false",  # its logger's library is not among Spark's
    }
    options = [f"-Dderby.stream.error.file={hive.folder / 'derby.log'}", "-Xmx384m", *_QUICK]
    main = "org.apache.hadoop.hive.metastore.HiveMetaStore"
    command = [java, *options, "-cp", str(home / "jars" / "*"), main, "-p", str(hive.metastore_port)]
    return command + [part for key, value in settings.items() for part in ("--hiveconf", f"{key}={value}")]


def _server(home: Path, hive: Hive) -> list[str]:
    spark = {
        "spark.master": "local[2]",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(hive.folder / "warehouse"),
        "spark.hadoop.hive.metastore.uris": f"thrift://127.0.0.1:{hive.metastore_port}",
        "spark.hadoop.hive.exec.dynamic.partition.mode": "nonstrict",
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": " ".join(_QUICK),
    }
    listen = {"hive.server2.thrift.port": str(hive.server_port), "hive.server2.thrift.bind.host": "127.0.0.1"}
    command = [str(home / "bin" / "spark-submit")]
    command += [part for key, value in spark.items() for part in ("--conf", f"{key}={value}")]
    command += ["--class", "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"]
    command += [part for key, value in listen.items() for part in ("--hiveconf", f"{key}={value}")]
    return [*command, "spark-internal"]


def _stop_spark() -> None:
    """End the Spark application that a reader started in this process, and its Java machine."""
    from pyspark import SparkContext

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # py4j leaves its sockets to the garbage collector
        context, gateway = SparkContext._active_spark_context, SparkContext._gateway
        if context is not None:
            context.stop()
        if gateway is not None:
            gateway.shutdown()
            gateway.proc.stdin.close()
            gateway.proc.wait(timeout=30)
            SparkContext._gateway = SparkContext._jvm = None
