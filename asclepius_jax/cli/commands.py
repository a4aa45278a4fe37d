"""The subcommands of `asclepius` and the parts of `asclepius evaluate`: one row each."""

from dataclasses import dataclass

from asclepius_jax.evaluate import parts


@dataclass(frozen=True)
class Command:
    """One row of `asclepius --help`."""

    summary: str
    module: str
    config: str  # dataclass of its settings
    function: str
    extra: str  # optional dependencies of the package that it needs
    examples: tuple[str, str]  # arguments, shown at the end of its --help


# Stages that a Ray cluster can work on.
IN_PARTS = ("notes", "instructions", "split", "pack")
COMMANDS = {
    "notes": Command(
        "write synthetic notes from case reports, or check a finished folder (--audit)",
        "data_prep.synthesize.notes", "NotesConfig", "run", "prep",
        (
            "--source PMC-Patients.csv --out data/notes",
            "--source reports.jsonl --out data/notes --teacher openai --base-url http://localhost:8000/v1 --model NAME",
        ),
    ),
    "real-notes": Command(
        "read real notes into a folder of notes", "data_prep.ingest.real_notes", "RealNotesConfig", "run", "prep",
        ("--source discharge.csv --out data/real", "--source notes.jsonl --out data/real --source-name ward-7"),
    ),
    "instructions": Command(
        "write questions about notes and their answers, or check a finished folder (--audit)",
        "data_prep.synthesize.instructions", "InstructionsConfig",
        "run", "prep",
        (
            "--source data/notes --out data/instructions --per-note 2",
            "--source data/notes --out data/instructions --teacher openai --model gpt-4o-mini --batch",
        ),
    ),
    "compare": Command(
        "compare synthetic notes with real ones, on a page", "data_prep.curate.compare", "CompareConfig", "run", "prep",
        ("--source data/notes --real data/real", "--source data/notes --real mtsamples.csv --type-column specialty"),
    ),
    "split": Command(
        "split records into training and held-out sets", "data_prep.curate.split", "SplitConfig", "run", "prep",
        (
            "--source data/instructions --out data/split --held-out 0.05",
            "--source data/instructions --out data/split --against benchmark.csv",
        ),
    ),
    "release": Command(
        "write instructions as a data set for others", "data_prep.curate.release", "ReleaseConfig", "run", "prep",
        (
            "--source data/split/train --out release",
            "--source data/split/train --held-out data/split/held_out --out release --push NAME/REPO",
        ),
    ),
    "adopt": Command(
        "read a published data set as instructions", "data_prep.ingest.published", "AdoptConfig", "run", "prep",
        (
            "--source Asclepius-Synthetic-Clinical-Notes --out data/adopted",
            "--source published.csv --out data/adopted",
        ),
    ),
    "pairs": Command(
        "write pairs of a better and a worse answer", "data_prep.curate.pairs.pairs", "PairsConfig", "run", "prep",
        ("--source data/split/train --out data/pairs", "--from evaluation/answers --out data/pairs"),
    ),
    "pack": Command(
        "pack notes, instructions, pairs or plain text into rows", "data_prep.pack.run", "PackConfig", "run", "prep",
        (
            "--source data/notes --out data/packed/notes --tokenizer meta-llama/Llama-2-7b-hf",
            "--source data/instructions --out data/packed/instructions --tokenizer tokenizer.model --row-length 4096",
        ),
    ),
    "join": Command(
        "make one folder of the parts of a stage (--part I/N)", "asclepius_jax.cli.command_line", "JoinConfig",
        "join", "prep",
        ("data/notes.part-*-of-4 --out data/notes", "data/packed.part-*-of-8 --out data/packed"),
    ),
    "train": Command(
        "pretrain or tune a model on packed rows", "asclepius_jax.train.loop", "", "train", "train",
        (
            "pretrain_7b --init.hf meta-llama/Llama-2-7b-hf --data.path data/packed/notes",
            "instruct_7b --init.checkpoint runs/pretrain_7b --data.path data/packed/instructions --restarts 5",
        ),
    ),
    "preflight": Command(
        "check every host of a machine with the run that it is to train", "asclepius_jax.plan.preflight.preflight", "",
        "run", "train",
        (
            "pretrain_7b --init.hf meta-llama/Llama-2-7b-hf --data.path data/packed/notes",
            "instruct_7b --init.checkpoint runs/pretrain_7b --data.path data/packed/instructions --json preflight.json",
        ),
    ),
    "reference": Command(
        "store the log-probabilities of packed pairs under the model that preference tuning starts from",
        "asclepius_jax.train.preference.reference", "", "reference", "train",
        (
            "instruct_7b --init.checkpoint runs/instruct_7b --data.path data/packed/pairs --out data/packed/referenced",
            "instruct_smollm2_135m --data.path data/packed/pairs --out data/packed/referenced --batch.global-batch 8",
        ),
    ),
    "improve": Command(
        "tune a model on its own answers and on planted errors, and evaluate it", "asclepius_jax.pipelines.improve",
        "ImproveOptions", "run", "evaluate",
        (
            "instruct_7b --tuned runs/instruct_7b --source data/split/train --held-out data/split/held_out "
            "--out runs/improved",
            "instruct_smollm2_135m_lora --tuned runs/tuned --source train --held-out held_out --out better --rounds 2",
        ),
    ),
    "plan": Command(
        "predict memory, communication, speed and cost of a run, without the machine", "asclepius_jax.plan.command",
        "PlanOptions", "run", "plan",
        (
            "pretrain_7b --topology v5e-64 --rows 60000 --price 1.2",
            "instruct_13b --topology h100-8 --search --out configs/mine.py",
        ),
    ),
    "import": Command(
        "convert a Hugging Face folder to a checkpoint", "asclepius_jax.convert.import_hf", "ImportConfig",
        "run_import", "train",
        (
            "--hf meta-llama/Llama-2-7b-hf --out runs/llama2_7b",
            "--hf models/Qwen3-8B --out runs/qwen3_8b --verify",
        ),
    ),
    "export": Command(
        "convert a checkpoint to a Hugging Face folder", "asclepius_jax.convert.export_hf", "ExportConfig",
        "run_export", "train",
        (
            "--checkpoint runs/instruct --out models/mine --verify",
            "--checkpoint runs/instruct --out models/mine --push NAME/REPO",
        ),
    ),
    "merge": Command(
        "merge models, or the last checkpoints of a run, into one Hugging Face folder",
        "asclepius_jax.convert.merge.merging", "MergeConfig", "run_merge", "train",
        (
            "--models runs/a=0.6 models/b=0.4 --out models/merged",
            "--models runs/a runs/b --method ties --base meta-llama/Llama-2-7b-hf --out models/merged",
        ),
    ),
    "generate": Command(
        "ask a checkpoint a question", "asclepius_jax.generate.ask", "GenerateConfig", "run", "train",
        (
            '--checkpoint runs/instruct --note note.txt --instruction "Which drug was stopped, and why?"',
            '--checkpoint runs/pretrain --prompt "DISCHARGE SUMMARY" --sampling.temperature 0.7',
        ),
    ),
    "serve": Command(
        "serve a checkpoint or a Hugging Face folder to clients of chat completions",
        "asclepius_jax.generate.serve.server", "ServeConfig", "run", "evaluate",
        (
            "--checkpoint runs/instruct --name mine",
            "--hf models/mine --host 0.0.0.0 --key-file api_key.txt --capacity.slots 64",
        ),
    ),
    "evaluate": Command(
        "measure how good and how faithful answers are: see `asclepius evaluate`", "", "", "", "evaluate",
        ("demo", "judge --help"),
    ),
    "init": Command(
        "copy the configs and launch scripts into a folder, for editing", "asclepius_jax.config", "InitFolder",
        "init_folder", "train",
        ("mine", "."),
    ),
    "demo": Command(
        "run the whole pipeline on 24 fictional case reports", "asclepius_jax.pipelines.demo",
        "DemoConfig", "run", "demo",
        ("", "--out /tmp/demo"),
    ),
}  # fmt: skip

PARTS = {
    name: Command(summary, f"asclepius_jax.evaluate.{module}", config, "run", "evaluate", examples)
    for name, summary, module, config, examples in parts.PARTS
}
AUDIT = Command(
    "check a finished folder again", "data_prep.curate.audit", "AuditConfig", "run", "prep",
    ("--audit data/notes", "--audit data/notes --source PMC-Patients.csv --examples 10"),
)  # fmt: skip
