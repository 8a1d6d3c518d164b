"""Whether admission, the lanes, the bridge and the object store answer."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from warmlane.admission.v1 import operator_service_pb2 as operators

from command_line.doctor.finding import Case, Finding, failed, ok, skipped, warning
from command_line.doctor.probes import ProbeError, Probes
from command_line.up.ports import LOOPBACK
from command_line.up.processes import HTTP_BRIDGE, LANES, listeners

_SLOW_STORE_S = 2.0
_NOT_HERE = "no stack runs here, and none was named (--data-dir, --address)"


def check_admission(case: Case, probes: Probes) -> Iterable[Finding]:
    """Admission, and every lane as it sees them."""
    try:
        snapshot = probes.snapshot(case).snapshot
    except ProbeError as error:
        yield _silent_admission(case, error)
        return
    yield ok("admission", f"answers at {case.address}, start number {snapshot.controller_epoch}, {len(snapshot.lanes)} lanes")
    if not snapshot.lanes:
        yield warning("lanes", "no lane was ever seen", "Start one: it dials admission by itself (docs/howto/across-machines.md).")
    for lane in snapshot.lanes:
        yield _lane(lane)


def check_lanes(case: Case, probes: Probes) -> Iterable[Finding]:
    """The own gRPC server of each lane of the stack here."""
    here = [name for name in LANES if name in case.ports]
    if not here:
        yield skipped("lanes.health", "no lane of a stack runs here")
    for name in here:
        problem = probes.grpc_health(f"{LOOPBACK}:{case.ports[name]}", "")
        if problem is None:
            yield ok(f"lanes.health.{name}", f"serves at {LOOPBACK}:{case.ports[name]}")
        else:
            yield failed(f"lanes.health.{name}", problem, f"Its last words: {case.data_dir / 'logs' / f'{name}.log'}")


def check_bridge(case: Case, probes: Probes) -> Iterable[Finding]:
    """`/health` of the bridge."""
    url = bridge_url(case, probes)
    if url is None:
        yield skipped("bridge", "nobody listens where the bridge would")
        return
    try:
        status = probes.http_health(url, case).status
    except ProbeError as error:
        yield failed("bridge", str(error), "Its log says why.") if case.ports else skipped("bridge", f"no bridge: {error}")
        return
    if status == HTTPStatus.OK:
        yield ok("bridge", f"answers at {url}")
    elif not case.ports:
        yield skipped("bridge", f"no bridge: {url}/health answers {status}")
    else:
        yield failed("bridge", f"{url}/health answers {status}", "Another program may have the port; the bridge's log says what it did.")


def check_object_store(case: Case, probes: Probes) -> Iterable[Finding]:
    """A small object of its own, put, read and deleted."""
    url = case.environment.get("WARMLANE_OBJECT_STORE_URL") or (case.data_dir / "objects").absolute().as_uri()
    if not case.environment.get("WARMLANE_OBJECT_STORE_URL") and not (case.data_dir / "objects").is_dir():
        yield skipped("object-store", f"{case.data_dir / 'objects'} is made by the first start")
        return
    shown = url.partition("?")[0].rpartition("@")[2] if "@" in url else url.partition("?")[0]
    try:
        took_s = probes.object_store(url)
    except ProbeError as error:
        advice = "docs/howto/object-store.md has the AWS variables, and the rights that are needed."
        yield failed("object-store", f"{shown}: {str(error).replace(url, shown)}", advice)
        return
    told = f"{shown}: put, get and delete took {took_s * 1000:.0f} ms"
    if took_s > _SLOW_STORE_S:
        yield warning("object-store", told, "Each clip waits for it: take a store that is nearer.")
    else:
        yield ok("object-store", told)


def bridge_url(case: Case, probes: Probes) -> str | None:
    """Where the bridge answers: of the stack here, or at its default port where somebody listens; None: nowhere."""
    scheme = "https" if case.environment.get("WARMLANE_HTTP_TLS_CERT_FILE") else "http"
    if HTTP_BRIDGE in case.ports:
        return f"{scheme}://{LOOPBACK}:{case.ports[HTTP_BRIDGE]}"
    if case.ports:
        return None
    (default,) = [one.default for one in listeners((HTTP_BRIDGE,), http_port=None, grpc_port=None) if one.process == HTTP_BRIDGE]
    return f"{scheme}://{LOOPBACK}:{default}" if probes.holder(default) is not None else None


def _silent_admission(case: Case, error: ProbeError) -> Finding:
    if not case.should_answer:
        return skipped("admission", _NOT_HERE)
    log = case.data_dir / "logs" / "admission.log"
    advice = f"Its last words: {log}" if case.ports else "Look at its log where it runs; a wrong address or a firewall looks the same."
    return failed("admission", str(error), advice)


def _lane(lane: operators.LaneSnapshot) -> Finding:
    name = f"lanes.{lane.lane_id}"
    what = f"{' and '.join(lane.models)} on {lane.gpu or lane.device or 'an unknown device'}"
    if lane.drained:
        return warning(name, f"{what}: drained", f"`warmlane drain {lane.lane_id} --resume` gives it work again.")
    if lane.object_store_failure:
        told = f"{what}: waits for the object store: {lane.object_store_failure}"
        return warning(name, told, "It goes on by itself when the store answers; docs/howto/object-store.md says what it needs.")
    if lane.availability == operators.AVAILABILITY_READY:
        retired = ", ".join(f"{one.placement} of {one.model}" for one in lane.retired_placements)
        if retired:
            return warning(
                name,
                f"{what}: ready; out of use: {retired}",
                "They ran out of memory again and again; docs/howto/memory.md says what to do.",
            )
        return ok(name, f"{what}: ready")
    told = lane.reason or "not ready"
    return warning(
        name, f"{what}: {told}", "`warmlane lanes` shows how far it is; docs/howto/operate.md (Cold starts) says what each cause needs."
    )
