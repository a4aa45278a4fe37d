"""Printing of a plan as tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

GIB = 2**30


def show(report: dict[str, Any]) -> None:
    console = Console()
    chosen = report["chosen"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in chosen["mesh"].items() if size > 1) or "one device"
    console.print(
        f"[bold]{report['topology']}[/bold]: {report['devices']} x {report['device']}, {mesh}; "
        f"{chosen['microbatches']} x {chosen['rows_per_device']} rows per device, remat {chosen['remat']}, "
        f"attention {chosen['attention']}"
    )
    for note in chosen["notes"]:
        console.print(note, markup=False, highlight=False)
    console.print(verdict(report))
    console.print(memory_table(report["memory"]))
    console.print(host_table(report["host"]))
    if report["collectives"]:
        console.print(traffic_table(report["collectives"]))
    console.print(speed_table(report))
    if "start" in report:
        console.print("Start it with:")
        console.print(report["start"], soft_wrap=True, markup=False, highlight=False)


def show_decoding(report: dict[str, Any]) -> None:
    """Print the plan of answering on a machine."""
    console, memory = Console(), report["memory"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1) or "one device"
    console.print(
        f"[bold]{report['topology']}[/bold]: {report['devices']} x {report['device']}, {mesh} (data: replicas of the "
        f"model); {report['length']:,} tokens per prompt and answer"
    )
    if not report["slots"]:
        console.print(
            f"[red]does not fit[/red]: weights of {memory['weights_bytes'] / GIB:.1f} GiB per device, one slot of "
            f"{memory['slot_bytes'] / GIB:.2f} and the reading of prompts exceed the {memory['limit_bytes'] / GIB:.1f} "
            "available"
        )
        return
    table = Table("memory per device", "GiB")
    for name in ("weights", "prefill", "slot", "peak", "limit"):
        notes = {"prefill": " (2,048 tokens of prompts)", "slot": f" (each; {report['slots']} fit)"}
        notes |= {"peak": f" with {report['slots']} slots, compiled"}
        table.add_row(name + notes.get(name, ""), f"{memory[f'{name}_bytes'] / GIB:.2f}")
    console.print(table)
    speed = Table("slots per replica", "ms per step", "tokens/s, all devices", title="at most, by memory bandwidth")
    for row in report["speed"]:
        speed.add_row(f"{row['slots']}", f"{1e3 * row['step_seconds']:.1f}", f"{row['tokens_per_second']:,.0f}")
    console.print(speed)


def verdict(report: dict[str, Any]) -> str:
    memory = report["memory"]
    needs, limit = memory["peak_bytes"] / GIB, memory["limit_bytes"] / GIB
    if report["fits"]:
        return f"[green]fits[/green]: {needs:.1f} of {limit:.1f} GiB per device"
    return (
        f"[red]does not fit[/red]: needs {needs:.1f} GiB per device, {needs - limit:.1f} more than the {limit:.1f} "
        "available; use more microbatches, --compute.remat full or more devices"
    )


def memory_table(memory: dict[str, int]) -> Table:
    table = Table("memory per device", "GiB")
    rows = (
        "parameters",
        "optimizer",
        "gradients",
        "activations",
        "working",
        "arguments",
        "temporaries",
        "peak",
        "limit",
    )
    notes = {"activations": " saved for the backward pass", "working": " memory of a block and of the loss"}
    notes |= {"arguments": " (parameters, optimizer, batch)", "temporaries": " (the rest)"}
    for name in rows:
        table.add_row(name + notes.get(name, ""), f"{memory[f'{name}_bytes'] / GIB:.2f}", end_section=name == "working")
    return table


def host_table(host: dict[str, int]) -> Table:
    table = Table(f"memory per host ({host['hosts']} host{'s' * (host['hosts'] > 1)})", "GiB")
    uses = {"checkpoint": "its share of a checkpoint, while it is saved", "offloaded": "offloaded block inputs"}
    uses |= {"process": "Python, JAX and the compiler, as on this machine"}
    for name, use in uses.items():
        if host[f"{name}_bytes"]:
            table.add_row(use, f"{host[f'{name}_bytes'] / GIB:.2f}", end_section=name == "process")
    table.add_row("together", f"{host['total_bytes'] / GIB:.2f}")
    return table


def start_up(report: dict[str, Any]) -> str:
    """The seconds before the first step, and what they leave out."""
    start, read = report["start_up"], report["start_up"]["read_seconds"]
    size = f"{report['host']['checkpoint_bytes'] / 1e9:.1f} GB per host"
    reading = f"not counted: reading {size} (set --read-rate)" if read is None else f"{read:.0f} s reading {size}"
    return f"{start['compile_seconds']:.0f} s compiling, as on this machine; {reading}"


def traffic_table(collectives: list[dict[str, Any]]) -> Table:
    heads = ["communication per step", "mesh axes", "links", "count", "GB of whole tensors"]
    timed = "seconds" in collectives[0]
    table = Table(*heads, *(("seconds", "of these waiting") if timed else ()))
    for each in collectives:
        cells = [each["kind"], " ".join(each["axes"]), each["links"], str(each["count"]), f"{each['bytes'] / 1e9:.3f}"]
        times = [f"{each[name]:.3f}" for name in ("seconds", "exposed_seconds") if timed]
        table.add_row(*cells, *times)
    return table


def speed_table(report: dict[str, Any]) -> Table:
    predicted, flops = report["predicted"], report["flops"]
    table = Table("predicted", "")
    table.add_row("step", f"{predicted['step_seconds']:.2f} s")
    least, most = predicted["least_tokens_per_second"], predicted["most_tokens_per_second"]
    speed = f"{predicted['tokens_per_second_per_device']:,.0f}, nine times of ten {least:,.0f} to {most:,.0f}"
    table.add_row("tokens/s per device", speed)
    table.add_row("MFU, all scores counted / causal half", f"{predicted['mfu']:.1%} / {predicted['mfu_causal']:.1%}")
    parts = [(name, seconds) for name, seconds in predicted["parts"].items() if seconds >= 0.0005]
    table.add_row("seconds by part", ", ".join(f"{name.replace('_', ' ')} {seconds:.3f}" for name, seconds in parts))
    table.add_row("model PFLOP per step / causal", f"{flops['model'] / 1e15:.2f} / {flops['model_causal'] / 1e15:.2f}")
    table.add_row("recomputation", f"{flops['recomputation'] / 1e15:.2f} PFLOP")
    table.add_row("checkpoint of a step", f"{report['checkpoint_bytes'] / 1e9:.1f} GB")
    table.add_row("start-up", start_up(report))
    training = report["training"]
    if training:
        table.add_row("steps", f"{training['steps']:,} ({training['rows']:,} rows)")
        table.add_row(
            "hours / device-hours, with one start", f"{training['hours']:.1f} / {training['device_hours']:,.0f}"
        )
        if "cost" in training:
            table.add_row("cost", f"{training['cost']:,.0f}")
    return table
