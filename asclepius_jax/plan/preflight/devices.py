"""Are the devices those that the run needs, and do they have the memory that the plan predicts."""

import jax

from asclepius_jax.cost_model.choose import reported_bytes
from asclepius_jax.cost_model.memory import estimate
from asclepius_jax.plan.preflight.records import Measure, Row, Run, name_of
from asclepius_jax.train.adapters import readable

MEMORY = "device memory"


def measure_devices(run: Run) -> Measure:
    machine = run.machine
    return {
        "kinds": sorted({device.device_kind for device in run.devices}),
        "memory": {name_of(device): reported_bytes(device) for device in run.devices},
        "free": machine.limit_bytes if machine.platform == "cpu" else None,  # shared by the devices of a host
    }


def judge_devices(run: Run, measures: list[Measure]) -> list[Row]:
    kinds = sorted({kind for each in measures for kind in each["kinds"]})
    count = sum(len(each["memory"]) for each in measures)
    mesh = " x ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items() if size > 1) or "one device"
    hosts = "1 process" if len(measures) == 1 else f"{len(measures)} processes"
    status, remedy = ("ok", "") if len(kinds) == 1 else ("wrong", "use devices of one kind")
    rows = [Row("devices", status, f"{count} x {' and '.join(kinds)}, {hosts}", mesh, remedy=remedy)]
    need = estimate(run.config, run.model.config, dict(run.mesh.shape), run.kernel).total
    told = f"plan: {readable(int(need))} per device"
    least: tuple[float, str] | None = None
    for each in measures:
        for device, reported in each["memory"].items():
            limit = reported or each["free"]
            if limit and (least is None or limit < least[0]):
                least = (limit, each["place"])
            if limit and need > limit:
                rows.append(
                    Row(
                        MEMORY,
                        "wrong" if need > 1.1 * limit else "warning",
                        readable(int(limit)),
                        told,
                        f"{each['place']}, {device}",
                        "more devices, --batch.microbatches, or --compute.remat full",
                    )
                )
    if least is None:
        rows.append(Row(MEMORY, "warning", "not reported by the devices", told))
    elif not any(row.check == MEMORY for row in rows):
        rows.append(Row(MEMORY, "ok", f"at least {readable(int(least[0]))}", told))
    return rows


def peak_bytes(devices: list[jax.Device]) -> int:
    """The most memory that any of the devices has used so far; 0 if they do not report it."""
    return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices)
