"""Checks of one real step, and what the run will take."""

from rlhf_pg.study.doctor.finding import Check, Finding, Missing, judged
from rlhf_pg.study.doctor.memory import bytes_needed, memory_there
from rlhf_pg.study.doctor.patient import Patient

UNITS = ("B", "kB", "MB", "GB", "TB")


def eos_trained(patient: Patient) -> Finding:
    """The learner's mask holds every EOS, and the gradient reaches it."""
    seen = patient.rehearsal()
    if not seen.finished:
        raise Missing("no completion of the step ended by EOS")
    if seen.eos_kept < seen.finished:
        remedy = (
            "the mask leaves EOS out, so it is never trained: masks must come from lengths, not "
            "from `ids != pad`"
        )
    else:
        remedy = (
            "nothing teaches the model when to stop, since no EOS has an advantage: let the reward "
            "tell completions apart, or take --algorithm ppo"
        )
    return judged(
        seen.eos_kept == seen.finished and seen.eos_reached > 0,
        f"{seen.eos_reached} of {seen.finished} EOS have a gradient",
        "more than 0",
        remedy,
        value=seen.eos_reached,
    )


def all_trained(patient: Patient) -> Finding:
    """Every parameter gets a gradient from one backward pass of the loss."""
    seen = patient.rehearsal.made()
    if patient.config.lora_rank is not None:  # B begins at zero, and so does the gradient of A
        missing = [name for name in seen.untrained if "lora_A" not in name]
    else:
        missing = seen.untrained + seen.frozen
    count = len(missing) + len(seen.trained)
    return judged(
        not missing,
        f"{len(missing)} of {count} tensors without",
        "0",
        f"no gradient for {', '.join(missing[:3])}{' ...' if missing[3:] else ''}: they stay as "
        "they are; unless that is meant, set requires_grad_(True), or use them in the forward",
        "warn" if seen.trained else "fail",
        len(missing),
    )


def gradient_norm(patient: Patient) -> Finding:
    """The gradient of a batch is not 0, and not far above its clip."""
    seen, limit = patient.rehearsal(), patient.train.learner.max_grad_norm
    norm = seen.grad_norm
    if norm == 0:
        remedy = (
            "the batch teaches nothing: its advantages are all 0; let the reward differ between "
            "completions of a prompt"
        )
        return Finding("fail", "0", "above 0", remedy, norm)
    return judged(
        not limit or norm <= 100 * limit,
        f"{norm:.3g} toward {seen.toward}",
        f"at most {100 * limit:g}" if limit else "finite",
        f"every step would be clipped to {limit:g} (--learner.max_grad_norm), its direction set by "
        f"a few rows: scale the reward down, as in --reward 'normalise({patient.spec})'",
        "warn",
        norm,
    )


def memory(patient: Patient) -> Finding:
    """Weights, gradient, Adam's moments and the reference fit the memory."""
    needed = bytes_needed(patient)
    there, whole = memory_there(patient.device), needed["all"]
    parts = ", ".join(f"{n} {size(b)}" for n, b in needed.items() if n != "all")
    where = "the GPU" if patient.device.type == "cuda" else "this machine"
    return judged(
        whole <= 0.8 * there,
        f"{parts}: {size(whole)}",
        f"{size(0.8 * there)} of {where}",
        "activations come on top, and grow with --rows and --max_new_tokens: train adapters "
        "(--lora_rank 16), take a smaller --model, or a larger machine",
        "fail" if whole > there else "warn",
        whole,
    )


def peak_memory(patient: Patient) -> Finding:
    """The most memory in use while a step was made."""
    seen = patient.rehearsal()
    used = "on the GPU" if patient.device.type == "cuda" else "by this process"
    said = f"{size(seen.peak_bytes)} {used}, {seen.measured_rows} rows"
    remedy = "" if seen.measured_rows == patient.train.rows else (
        f"measured on {seen.measured_rows} of {patient.train.rows} rows; activations grow with "
        "the rows, and --learner.micro_rows bounds them"
    )  # fmt: skip
    return Finding("note", said, "measured", remedy, seen.peak_bytes)


def step_time(patient: Patient) -> Finding:
    """Seconds of one iteration with all its rows, by stage; no weight was changed by it."""
    seen = patient.rehearsal()
    whole = sum(seen.seconds.values())
    said = ", ".join(f"{stage} {x:.2f}" for stage, x in seen.seconds.items())
    return Finding("note", f"{whole:.2g} s: {said}", _how(patient), value=whole)


def run_time(patient: Patient) -> Finding:
    """That times the iterations."""
    seen, run = patient.rehearsal(), patient.train
    whole = sum(seen.seconds.values()) * run.iterations
    note = "" if "reward" in seen.seconds else "; the reward's time is not in it"
    return Finding("note", f"about {duration(whole)}, {run.iterations} iterations{note}",
                   "an estimate", value=whole)  # fmt: skip


def _how(patient: Patient) -> str:
    rows = patient.rehearsal().measured_rows
    return "measured" if rows == patient.train.rows else f"scaled from {rows} rows"


def size(count: float) -> str:
    """Bytes for a person: 1,650,000 is 1.6 MB."""
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {UNITS[power]}"


def duration(seconds: float) -> str:
    """Seconds for a person: 95 is 1 min 35 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s"
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if whole % 60 else f"{minutes} min"


CHECKS: dict[str, Check] = {
    "memory": memory,
    "EOS is trained": eos_trained,
    "all parameters learn": all_trained,
    "gradient": gradient_norm,
    "memory at its peak": peak_memory,
    "an iteration takes": step_time,
    "the run takes": run_time,
}
