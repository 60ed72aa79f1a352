"""Ending what `up` has started: answers first, then applications, then Ray, then every process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ray

from aoti_serve.launcher import ProgressLog
from aoti_serve.launcher.cluster.applications import Applications
from aoti_serve.launcher.cluster.draining import end_proxies, wait_until_drained
from aoti_serve.launcher.processes.background import Heartbeat, in_background, leave
from aoti_serve.launcher.processes.process_tree import ProcessTree
from aoti_serve.launcher.processes.stop_request import StopRequest

# After the last answer: the time in which the applications end, and the time in which Ray ends.
DELETE_S, SHUT_DOWN_S = 30.0, 15.0
RAY_ANSWER_S = 10.0  # after that Ray counts as dead


class Shutdown:
    """Ends a server in order, and always in limited time.

    Ray answers nothing once its head has died, for example when a supervisor signals the whole process group. So Ray is
    called in threads, with deadlines. A `joined` cluster belongs to others: there only a failed start is undone.
    """

    def __init__(
        self,
        applications: Applications,
        processes: ProcessTree,
        stop: StopRequest,
        log: ProgressLog,
        *,
        drain_s: float,
        joined: bool,
    ) -> None:
        self._applications = applications
        self._processes = processes
        self._stop = stop
        self._log = log
        self._drain_s = drain_s
        self._joined = joined
        self._ray_answers = False

    def abandon(self) -> None:
        """End a server that was never ready: nothing is in flight. On a joined cluster earlier applications stay."""
        if self._joined:
            self._run_within(self._applications.delete_new, DELETE_S)
        self._processes.update()
        self._processes.end()

    def end(self) -> None:
        """Let answers in flight end, then end all our processes. Ends this one with status 1 if an answer is cut."""
        self._log.progress("stopping")
        self._processes.update()
        if self._processes.head_alive and self._take_down() and self._run_within(ray.shutdown, SHUT_DOWN_S):
            self._processes.end()
            return
        self._log.say(self._cut_reason())
        self._processes.end()
        leave(1)

    def _take_down(self) -> bool:
        """Take the applications down. Returns true if all that was in flight has been answered."""
        answered = threading.Event()

        def leave_cluster() -> None:
            if not ray.is_initialized():  # Serve would join the cluster that was started last on this machine
                answered.set()
            elif wait_until_drained(self._applications.ours_there(), self._drain_s, self._log):
                answered.set()
                end_proxies()  # with any error, here and below: Ray's processes are ended anyway
                self._applications.delete()

        # A head that was told to end may live on without answering.
        heartbeat = Heartbeat(lambda: ray.is_initialized() and ray.nodes(), RAY_ANSWER_S)
        heartbeat.start()
        in_time = self._run_within(
            leave_cluster, self._drain_s + DELETE_S, lambda: heartbeat.lost() or not self._processes.head_alive
        )
        self._ray_answers = self._processes.head_alive and not heartbeat.lost()
        return in_time and answered.is_set() and self._ray_answers

    def _run_within(self, work: Callable[[], object], seconds: float, hopeless: Callable[[], bool] = bool) -> bool:
        return not self._stop.outlasts(in_background(work), seconds, hopeless)

    def _cut_reason(self) -> str:
        if self._stop.at_once:
            return "asked again: what is in flight is cut"
        if self._ray_answers:
            return f"{self._drain_s:g} s are over: what is in flight is cut"
        return "Ray does not answer any more; its processes are killed"
