"""A Kubernetes API server as far as erratad uses it, with a job controller and a kubelet.

Its answers have the real API's shapes. Its kubelet starts the command of a pod's container as a process of this
machine; without one, pods stay pending until a test says what becomes of them. Requests need the bearer token and a
right among RULES.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE, TOKEN = "chat", "a-service-accounts-token"
USER = f"system:serviceaccount:{NAMESPACE}:errata"
RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "create", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]
"""The rights of the daemon's service account: those that the chart gives it."""
TICK_S = 0.02
CONTAINER = "trainer"
Object = dict[str, Any]
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>log))?)?"
)
_VERBS = {"GET": "get", "POST": "create", "DELETE": "delete"}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, reason: str, message: str, *, status: str = "True") -> Object:
    return {
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastProbeTime": now(), "lastTransitionTime": now(),
    }  # fmt: skip


class StatusError(Exception):
    """An answer of kind Status."""

    def __init__(self, code: int, reason: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code, self.retry_after_s = code, retry_after_s
        self.body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": {}, "code": code,
        }  # fmt: skip


UNAUTHORIZED = StatusError(401, "Unauthorized", "Unauthorized")
OVERLOADED = StatusError(
    429, "TooManyRequests", "The server has received too many requests and has asked us to try again later",
    retry_after_s=1,
)  # fmt: skip
INTERNAL = StatusError(500, "InternalError", "Internal error occurred: etcdserver: request timed out")


class FakeKubernetes:
    """One namespace of one cluster."""

    def __init__(self, folder: Path, *, kubelet: bool = False) -> None:
        self.folder = folder
        self.jobs: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        self.events: list[Object] = []
        self.created: list[Object] = []
        """The manifests of all jobs that were created."""
        self.rules = RULES
        self.failing: StatusError | None = None
        """What every request is answered with."""
        self.away = False
        """No request is answered."""
        self.loses_answers = False
        """Requests are carried out, but their answers are lost."""
        self.lock = threading.RLock()
        self._kubelet = kubelet
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._stop = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def kubeconfig(self) -> Path:
        """A file as kubectl reads it."""
        path = self.folder / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "errata", "user": {"token": TOKEN}}],
                    "contexts": [
                        {"name": "here", "context": {"cluster": "fake", "user": "errata", "namespace": NAMESPACE}}
                    ],
                }
            )
        )
        return path

    @contextmanager
    def running(self) -> Iterator[FakeKubernetes]:
        # the kernel ends a trainer together with the thread that started it: the controller's lives to the end
        threads = [
            threading.Thread(target=self._server.serve_forever, args=(TICK_S,)),
            threading.Thread(target=self._control),
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._server.shutdown()
            for thread in threads:
                thread.join()
            self._server.server_close()
            for process in self._processes.values():
                if process.poll() is None:
                    process.kill()
                process.wait()

    # what a test makes happen in the cluster

    @property
    def job(self) -> Object:
        """The latest job."""
        return list(self.jobs.values())[-1]

    @property
    def pod(self) -> Object:
        """The latest pod."""
        return list(self.pods.values())[-1]

    def unschedulable(self, message: str) -> None:
        self.pod["status"]["conditions"] = [condition("PodScheduled", "Unschedulable", message, status="False")]

    def container_waits(self, reason: str, message: str | None = None) -> None:
        said = {"reason": reason} if message is None else {"reason": reason, "message": message}
        self.pod["status"]["conditions"] = [condition("PodScheduled", "", "")]
        self.pod["status"]["containerStatuses"] = [_container({"waiting": said})]

    def warns(self, about: Object, reason: str, message: str) -> None:
        """An event as the kubelet and the controllers write them."""
        meta = about["metadata"]
        self.events.append(
            {
                "metadata": _meta(f"{meta['name']}.{len(self.events)}"),
                "involvedObject": {"name": meta["name"], "namespace": NAMESPACE, "uid": meta["uid"]},
                "reason": reason, "message": message, "type": "Warning", "count": 1, "source": {"component": "kubelet"},
                "firstTimestamp": now(), "lastTimestamp": now(), "eventTime": None,
                "reportingComponent": "kubelet", "reportingInstance": "",
            }
        )  # fmt: skip

    def starts(self, log: str = "") -> None:
        """The latest pod runs and has written this log."""
        self._log(self.pod).write_text(log)
        self.pod["status"] = {**self.pod["status"], "phase": "Running", "startTime": now()}
        self.pod["status"]["containerStatuses"] = [_container({"running": {"startedAt": now()}})]

    def ends(self, code: int, reason: str | None = None) -> None:
        """The container of the latest pod ends."""
        with self.lock:
            self._ended(self.pod, code, reason or ("Completed" if code == 0 else "Error"))

    def evict(self) -> None:
        """As a drain of the node: SIGTERM, and the pod fails of a disruption."""
        with self.lock:
            pod = self.pod
            pod["status"].setdefault("conditions", []).append(
                condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")
            )
            self._delete_pod(pod)

    def expire(self) -> None:
        """The latest job's time after its end is over."""
        with self.lock:
            name = self.job["metadata"]["name"]
            for pod in [pod for pod in self.pods.values() if _owner(pod) == name]:
                del self.pods[pod["metadata"]["name"]]
            del self.jobs[name]

    def delete_job(self, name: str) -> None:
        """With its pods before it."""
        with self.lock:
            meta = self.jobs[name]["metadata"]
            if "deletionTimestamp" not in meta:
                meta.update(deletionTimestamp=now(), deletionGracePeriodSeconds=0, finalizers=["foregroundDeletion"])
                for pod in [pod for pod in self.pods.values() if _owner(pod) == name]:
                    self._delete_pod(pod)

    def trainer(self) -> int:
        """Process of the latest pod's container."""
        return self._processes[self.pod["metadata"]["name"]].pid

    # the job controller and the kubelet

    def _control(self) -> None:
        while not self._stop.wait(TICK_S):
            with self.lock:
                for pod in list(self.pods.values()):
                    self._look_after(pod)
                for job in list(self.jobs.values()):
                    self._reconcile(job)

    def _reconcile(self, job: Object) -> None:
        name, status = job["metadata"]["name"], job["status"]
        pods = [pod for pod in self.pods.values() if _owner(pod) == name]
        if "deletionTimestamp" in job["metadata"]:
            if not pods:
                del self.jobs[name]
            return
        if job["spec"]["suspend"] or any(each["type"] in {"Complete", "Failed"} for each in status["conditions"]):
            return
        for pod in pods:
            phase = pod["status"]["phase"]
            if phase in {"Succeeded", "Failed"} and "batch.kubernetes.io/job-tracking" in pod["metadata"]["finalizers"]:
                pod["metadata"]["finalizers"].remove("batch.kubernetes.io/job-tracking")
                if phase == "Succeeded":
                    status.update(succeeded=1, completionTime=now())
                    status["conditions"].append(
                        condition("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
                    )
                    return
                if not _ignored(job, pod):
                    status["failed"] = status.get("failed", 0) + 1
        if status.get("failed", 0) > job["spec"]["backoffLimit"]:
            status["conditions"].append(
                condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            )
        elif not [pod for pod in pods if pod["status"]["phase"] in {"Pending", "Running"}]:
            self._create_pod(job)

    def _create_pod(self, job: Object) -> None:
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        template = job["spec"]["template"]
        self.pods[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **_meta(name),
                "labels": {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": job["metadata"]["name"]},
                "finalizers": ["batch.kubernetes.io/job-tracking"],
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"],
                        "uid": job["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending", "qosClass": "Burstable"},
        }  # fmt: skip

    def _look_after(self, pod: Object) -> None:
        """Start its process, tell its end, and drop a deleted pod that has ended and was counted."""
        name, status = pod["metadata"]["name"], pod["status"]
        process = self._processes.get(name)
        if self._kubelet and process is None and status["phase"] == "Pending":
            self.starts()
            self._processes[name] = self._start(pod)
        elif process is not None and status["phase"] == "Running" and process.poll() is not None:
            code = process.returncode if process.returncode >= 0 else 128 - process.returncode
            self._ended(pod, code, "Completed" if code == 0 else "Error")
        if "deletionTimestamp" in pod["metadata"] and status["phase"] != "Running":
            job = self.jobs.get(_owner(pod))
            if job is None or "deletionTimestamp" in job["metadata"] or not pod["metadata"]["finalizers"]:
                del self.pods[name]

    def _start(self, pod: Object) -> subprocess.Popen[bytes]:
        [container] = pod["spec"]["containers"]
        command = [sys.executable if part == "python" else part for part in container["command"]]
        own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
        with self._log(pod).open("wb") as output:
            return subprocess.Popen(
                command,
                env={**own, **{each["name"]: each["value"] for each in container["env"]}},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _delete_pod(self, pod: Object) -> None:
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        pod["metadata"].update(deletionTimestamp=now(), deletionGracePeriodSeconds=grace)
        process = self._processes.get(pod["metadata"]["name"])
        if process is not None:
            process.send_signal(signal.SIGTERM)
        elif pod["status"]["phase"] == "Running":
            self._ended(pod, 143, "Error")

    def _ended(self, pod: Object, code: int, reason: str) -> None:
        ended = {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}
        pod["status"]["phase"] = "Failed" if code else "Succeeded"
        pod["status"]["containerStatuses"] = [_container({"terminated": ended})]

    def _log(self, pod: Object) -> Path:
        return self.folder / f"{pod['metadata']['name']}.log"

    # the API

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Silent."""

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if fake.away:
                    self.close_connection = True
                    return
                headers = {}
                try:
                    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        raise UNAUTHORIZED
                    code, answer = fake.answer(self.command, self.path, json.loads(body) if body else {})
                except StatusError as exc:
                    code, answer = exc.code, exc.body
                    headers = {} if exc.retry_after_s is None else {"Retry-After": str(exc.retry_after_s)}
                if fake.loses_answers:
                    self.close_connection = True
                    return
                sent = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                kind = "text/plain" if isinstance(answer, str) else "application/json"
                self.send_response(code)
                for key, value in {"Content-Type": kind, "Content-Length": str(len(sent)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the names of http.server

        return Handler

    def answer(self, method: str, target: str, body: Object) -> tuple[int, Object | str]:
        """Raises StatusError."""
        if self.failing is not None:
            raise self.failing
        url = urlsplit(target)
        found = _PATH.fullmatch(url.path)
        if found is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        group, kind, name, part = found["group"] or "", found["kind"], found["name"], found["part"]
        resource = kind if part is None else f"{kind}/{part}"
        verb = "list" if method == "GET" and name is None else _VERBS[method]
        self._authorize(verb, group, resource, name or "")
        if found["namespace"] != NAMESPACE:
            raise StatusError(404, "NotFound", f'namespaces "{found["namespace"]}" not found')
        with self.lock:
            answers: dict[tuple[str, str], Callable[[], tuple[int, Object | str]]] = {
                ("create", "jobs"): lambda: (201, self._create_job(body)),
                ("get", "jobs"): lambda: (200, self._get_job(name)),
                ("delete", "jobs"): lambda: (200, self._delete(name, body)),
                ("list", "pods"): lambda: (200, self._list("Pod", self._selected(query))),
                ("get", "pods/log"): lambda: (200, self._read_log(name, query)),
                ("list", "events"): lambda: (200, self._list("Event", self._about(query))),
            }
            return answers[verb, resource]()

    def _authorize(self, verb: str, group: str, resource: str, name: str) -> None:
        for rule in self.rules:
            if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
                return
        what = f"{resource}.{group}" if group else resource
        raise StatusError(
            403,
            "Forbidden",
            f'{what} "{name}" is forbidden: User "{USER}" cannot {verb} resource "{resource}" in API group "{group}" '
            f'in the namespace "{NAMESPACE}"',
        )

    def _create_job(self, body: Object) -> Object:
        name = body["metadata"]["name"]
        if name in self.jobs:
            raise StatusError(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        if not body["spec"]["template"]["spec"]["containers"][0].get("image"):
            raise StatusError(
                422, "Invalid", f'Job.batch "{name}" is invalid: spec.template.spec.containers[0].image: Required value'
            )
        self.created.append(body)
        self.jobs[name] = {
            **body,
            "metadata": {**body["metadata"], **_meta(name)},
            "spec": {
                **body["spec"], "parallelism": 1, "completions": 1, "completionMode": "NonIndexed",
                # Kueue's webhook
                "suspend": "kueue.x-k8s.io/queue-name" in body["metadata"]["labels"],
            },
            "status": {"conditions": []},
        }  # fmt: skip
        return self.jobs[name]

    def _get_job(self, name: str) -> Object:
        if name not in self.jobs:
            raise StatusError(404, "NotFound", f'jobs.batch "{name}" not found')
        return self.jobs[name]

    def _delete(self, name: str, body: Object) -> Object:
        job = self._get_job(name)
        assert body["propagationPolicy"] == "Foreground", "the pods of any other deletion outlive the job"
        self.delete_job(name)
        return job

    def _selected(self, query: dict[str, str]) -> list[Object]:
        key, _, value = query["labelSelector"].partition("=")
        return [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(key) == value]

    def _about(self, query: dict[str, str]) -> list[Object]:
        wanted = dict(each.split("=", 1) for each in query["fieldSelector"].split(","))
        return [
            event
            for event in self.events
            if (event["involvedObject"]["uid"], event["type"]) == (wanted["involvedObject.uid"], wanted["type"])
        ]

    def _read_log(self, name: str, query: dict[str, str]) -> str:
        if name not in self.pods:
            raise StatusError(404, "NotFound", f'pods "{name}" not found')
        path = self._log(self.pods[name])
        if not path.exists():
            raise StatusError(
                400,
                "BadRequest",
                f'container "{query["container"]}" in pod "{name}" is waiting to start: ContainerCreating',
            )
        lines = path.read_text(errors="replace").splitlines(keepends=True)
        return "".join(lines[-int(query["tailLines"]) :])

    @staticmethod
    def _list(kind: str, items: list[Object]) -> Object:
        return {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}


def _meta(name: str) -> Object:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": str(uuid.uuid4()),
        "creationTimestamp": now(),
        "resourceVersion": "1",
    }


def _owner(pod: Object) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["name"])


def _container(state: Object) -> Object:
    return {
        "name": CONTAINER, "image": "erratad", "imageID": "", "ready": "running" in state,
        "restartCount": 0, "started": "running" in state, "state": state, "lastState": {},
    }  # fmt: skip


def _ignored(job: Object, pod: Object) -> bool:
    """Whether the pod failure policy lets the controller replace the pod."""
    conditions = {(each["type"], each["status"]) for each in pod["status"].get("conditions", [])}
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        if any((each["type"], each.get("status", "True")) in conditions for each in rule.get("onPodConditions", [])):
            return bool(rule["action"] == "Ignore")
        if code in rule.get("onExitCodes", {}).get("values", []):
            return bool(rule["action"] == "Ignore")
    return False


def wait_until(true: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited too long: {what}"
        time.sleep(TICK_S)
