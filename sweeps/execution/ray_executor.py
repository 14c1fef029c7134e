"""Trials on Ray Tune: on this machine's cores and GPUs, or on a cluster named by its address."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titanlab.platform.errors import ConfigError, Problem
from titanlab.sweeps.execution.executor import Executor, Watcher, check_fits
from titanlab.sweeps.execution.interruption import Interruption
from titanlab.sweeps.execution.ray_folders import RayFolder, make_ray_folder
from titanlab.sweeps.execution.ray_watch import RayLostError, RayWatch
from titanlab.sweeps.execution.streams import LastingStream
from titanlab.sweeps.execution.trainable import Job, tune_trial
from titanlab.sweeps.execution.trial_record import TrialRecord
from titanlab.sweeps.language.sweep_file import Resources
from titanlab.sweeps.planning.machine import machine_cpus, machine_gpus

if TYPE_CHECKING:
    from ray import tune

OBJECT_STORE = 80 * 2**20  # bytes; the default takes 30 % of the machine's memory, and trials share nothing
PATIENCE = 10.0  # seconds for a cluster's port to answer

_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a configuration mean what they mean to the driver
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: the journal has it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's own state is never read again
    "TUNE_WARN_THRESHOLD_S": "60",
}


class RayExecutor(Executor):
    """Runs trials as a Ray Tune experiment whose processes stay warm from trial to trial.

    Args:
        address: of a Ray cluster; None starts Ray on this machine and ends it afterwards.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self._temporary: RayFolder | None = None
        self._token = secrets.token_hex(32)  # one a process: Ray remembers the first
        self._connected = False

    def check(self, resources: Resources) -> None:
        """See `Executor.check`; a cluster is asked what it has."""
        if self.address is None:
            check_fits(resources, [(machine_cpus(), machine_gpus())], "this machine")
            return
        self._connect()
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive]
        check_fits(resources, nodes, f"no node of the cluster at {self.address}")

    def execute(
        self, jobs: Sequence[Job], resources: Resources, watcher: Watcher, interruption: Interruption, folder: Path
    ) -> None:
        """See `Executor.execute`. What Ray prints goes to `ray.log` in the folder."""
        with open(folder / "ray.log", "w", encoding="utf-8") as file:
            log: Any = LastingStream(file)
            with redirect_stdout(log), redirect_stderr(log):
                self._execute(jobs, resources, watcher, interruption, folder)

    def _execute(
        self, jobs: Sequence[Job], resources: Resources, watcher: Watcher, interruption: Interruption, folder: Path
    ) -> None:
        """Starts Ray again if it was lost, as often as a trial may lose its process."""
        self._connect()
        interruption.listen()  # Ray took SIGTERM
        left = list(jobs)
        for again in range(resources.retries, -1, -1):
            relay = _Relay(watcher, interruption)
            lost = self._fit(left, resources, relay, folder)
            if not lost:
                return
            left = [job for job in left if job.key not in relay.over]
            if not left:
                return
            relay.lose(lost, again=again > 0 and not interruption.requested)
            if not again or interruption.requested:
                return
            self._connect()
            interruption.listen()

    def _fit(self, jobs: Sequence[Job], resources: Resources, relay: _Relay, folder: Path) -> str:
        """Runs the trials; if Ray itself was lost meanwhile, leaves it and says what was."""
        if relay.interruption.requested:
            return ""
        # A cluster's nodes must all see it.
        parent = folder if self._temporary is None else self._temporary.path
        storage = parent / "tune"
        shutil.rmtree(storage, ignore_errors=True)  # of an earlier round, or a killed driver
        watch = RayWatch()
        try:
            with watch.watching() if self.address is None else nullcontext():
                _tuner(jobs, resources, relay, storage).fit()
        except (RayLostError, Exception):  # Ray turns the one into errors of its own, and has its own when it is lost
            if not watch.lost:
                raise
        finally:
            shutil.rmtree(storage, ignore_errors=True)
        if watch.lost:
            self.close()
            watch.end_workers()
        return watch.lost

    def close(self) -> None:
        """Leaves Ray, and ends it if it was started here."""
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None

    def _connect(self) -> None:
        if self._connected:
            return
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        if self.address is None:
            # Of this run alone: Ray would else keep one token for all runs in the home folder.
            os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", self._token
        import ray

        logging.getLogger("ray").setLevel(logging.CRITICAL)
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        # Called in an empty folder: its workers import whatever Python files lie where Ray is called.
        if self.address is not None:
            _check_answers(self.address)
            try:
                with tempfile.TemporaryDirectory() as empty, chdir(empty):
                    ray.init(address=self.address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise _no_cluster(self.address, str(error).strip().splitlines()[0]) from None
        else:
            self._temporary = make_ray_folder()
            with chdir(self._temporary.empty):
                ray.init(
                    num_cpus=machine_cpus(),
                    num_gpus=machine_gpus(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE,
                    _temp_dir=str(self._temporary.inner),
                    **quiet,
                )
        self._connected = True


def _check_answers(address: str) -> None:
    """Asks the port first: Ray itself waits for minutes where nobody listens.

    Raises:
        ConfigError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # `auto` and the like, which Ray looks up by itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, reason: str) -> ConfigError:
    return ConfigError(
        Problem(
            f"no Ray cluster answers at --ray-address {address}: {reason}; expected HOST:PORT as `ray start --head` "
            "prints it, or `auto` for a cluster on this machine"
        )
    )


def _tuner(jobs: Sequence[Job], resources: Resources, relay: _Relay, storage: Path) -> tune.Tuner:
    """A fresh experiment over the trials: nothing of an earlier one is restored, the trials resume by themselves."""
    from ray import tune

    trainable = tune.with_parameters(tune_trial, jobs={job.key: job for job in jobs}, folder=os.getcwd())
    wanted = {"cpu": resources.cpu, **({"gpu": resources.gpu} if resources.gpu else {})}
    return tune.Tuner(
        tune.with_resources(trainable, wanted),
        param_space={"trial": tune.grid_search([job.key for job in jobs])},
        tune_config=tune.TuneConfig(
            reuse_actors=True, trial_name_creator=_trial_key, trial_dirname_creator=_trial_key, metric=None
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(storage),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=resources.retries),
            callbacks=[relay.callback()],
        ),
    )


def _trial_key(trial: Any) -> str:
    return trial.config["trial"]


class _Relay:
    """Tells the watcher what Tune sees, and Tune that a stop was asked for."""

    def __init__(self, watcher: Watcher, interruption: Interruption) -> None:
        self.watcher, self.interruption = watcher, interruption
        self.running: set[str] = set()
        self.over: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes its callbacks into a state that is never read

    def callback(self) -> tune.Callback:
        """As Tune wants it; a class of its own would import Ray with this module."""
        from ray import tune

        relay = self

        class Callback(tune.Callback):
            def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
                relay.running.add(_trial_key(trial))
                relay.watcher.started(_trial_key(trial))

            def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
                relay.end(_trial_key(trial), TrialRecord(**json.loads(result["record"])))

            def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
                relay.running.discard(_trial_key(trial))
                relay.watcher.died(_trial_key(trial))

            def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
                relay.end(_trial_key(trial), _lost(trial))

            def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
                relay.stop_if_asked()

        return Callback()

    def end(self, key: str, record: TrialRecord) -> None:
        """A trial is over."""
        self.running.discard(key)
        self.over.add(key)
        self.watcher.ended(key, record)

    def lose(self, what: str, *, again: bool) -> None:
        """Ray itself is gone, and so is every running trial's process.

        Args:
            again: whether Ray is started once more.
        """
        self.watcher.remark(f"Ray's {what} died{'; starting Ray again' if again else ''}")
        for key in sorted(self.running):
            if again:
                self.watcher.died(key)
            else:
                message = f"Ray's {what} died, and with it the trial's process; see resources.retries"
                self.watcher.ended(key, TrialRecord("failed", error_type="RayDied", message=message, may_pass=True))
        self.running.clear()

    def stop_if_asked(self) -> None:
        """Ends the experiment once its running trials have written their checkpoints."""
        stop = self.interruption
        if stop.requested and (stop.is_urgent or not self.running):
            os.kill(os.getpid(), signal.SIGUSR1)  # Tune's own graceful stop
            time.sleep(0.05)


def _lost(trial: Any) -> TrialRecord:
    """The record of a trial whose process died more often than it may be retried."""
    error = trial.get_error()
    times = trial.num_failures
    return TrialRecord(
        "failed",
        error_type="WorkerDied",
        message=f"its process died {times} time{'s' if times != 1 else ''}; see resources.retries. Was memory full?",
        traceback=str(error),
    )
