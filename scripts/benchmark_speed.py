"""Seconds per training step of this project and of TRL on the same work, step by step in turn.

    pip install 'rlhf-pg[bench]' && pip install --target trl112 --no-deps trl==1.12.0
    python scripts/benchmark_speed.py --trl_ppo trl112 --film runs/demo/base/policy --real SMOLLM2

Both libraries live in a process of their own, and one waits while the other takes a step, so that
a busy machine slows both. Prints the median, least and greatest seconds of each, the median of the
ratios of neighbouring steps, and the seconds of this project's stages. Shapes:

rloo, grpo      tiny GPT-2 (4 layers x 128, vocabulary 1,024), 64 completions of 32 tokens, K = 4
ppo1, ppo4      the same with PPO of 1 or 4 epochs and a separate critic; TRL 1.12 had the last PPO
ppo1s, ppo4s    the same, this project's critic on the policy's trunk (its default)
film            RLOO on film notes: completions of varying length (needs the demo's base model)
real, real-bf16 RLOO with LoRA of rank 8 on a 135M model, 32 completions of 24 tokens, K = 4;
                TRL computes in fp32 in both

`--growth` prints this project's tokens per second as completions become more and longer,
`--processes` the seconds per step of two processes beside one (rloo, and film if it is given), and
`--memory` the greatest memory of two PPO steps of a GPT-2 small (124M, random weights).
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_pg.language.config import TrainConfig

ROOT = Path(__file__).parents[1]
S = ("rloo", "grpo", "ppo1", "ppo4", "ppo1s", "ppo4s")
STAGES = ("sampling", "reference", "update")  # of a step; the reward takes milliseconds
SHAPES = (*S, "film", "real", "real-bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=S, help="What to measure.")
    parser.add_argument("--steps", type=int, default=10, help="Steps measured, usually 10 to 30.")
    parser.add_argument("--threads", type=int, help="Threads of each. Default: 1, real models 2.")
    parser.add_argument("--trl_ppo", help="Folder with TRL 1.12.0, for the ppo shapes.")
    parser.add_argument("--film", help="The demo's base model, for film.")
    parser.add_argument("--real", help="A real model's folder, for real and real-bf16.")
    parser.add_argument("--no_trl", action="store_true", help="Measure this project alone.")
    parser.add_argument("--output", type=Path, help="Write the results as JSON here too.")
    parser.add_argument("--growth", action="store_true", help="Tokens per second by size.")
    parser.add_argument("--processes", action="store_true", help="Two processes beside one.")
    parser.add_argument("--memory", action="store_true", help="Memory at GPT-2 small's size.")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)  # library, shape, folder
    options = parser.parse_args()
    if options.worker:
        return work(*options.worker, options.threads)
    if options.growth:
        return growth(options.steps)
    if options.memory:
        return memory()
    if options.processes:
        return processes(options.steps, options.film)
    results = []
    columns = ("shape", "TRL, s/step", "rlhf_pg, s/step", "TRL / rlhf_pg", *STAGES)
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_tiny(Path(folder))
        for shape in options.shapes:
            model = folder if shape in S else options.film if shape == "film" else options.real
            if model is None:
                parser.error(f"{shape} needs --{'film' if shape == 'film' else 'real'}")
            if shape.startswith("ppo") and not options.trl_ppo and not options.no_trl:
                parser.error(f"{shape} needs --trl_ppo")
            results.append(measure(options, shape, model))
            print(line(results[-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, shape: str, model: str) -> dict:
    """Seconds of each step of both libraries, in turn; two steps of warm-up each."""
    threads = options.threads or (2 if shape.startswith("real") else 1)
    libraries = ["ours"] if options.no_trl else ["trl", "ours"]
    workers = {}
    for library in libraries:
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
        environment |= {"TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1"}
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        if library == "trl" and shape.startswith("ppo"):
            paths.insert(0, options.trl_ppo)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, __file__, "--threads", str(threads)]
        workers[library] = subprocess.Popen(
            [*command, "--worker", library, shape, model],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
    seconds: dict = {library: [] for library in libraries}
    stages: list[dict[str, float]] = []  # of this project's steps
    for step in range(options.steps + 2):
        for library, worker in workers.items():
            worker.stdin.write("step\n")
            worker.stdin.flush()
            while not (answer := worker.stdout.readline()).startswith("seconds "):
                if not answer:
                    raise SystemExit(f"{library} stopped on {shape}: see its message above")
            if step >= 2:
                seconds[library].append(float(answer.split()[1]))
                if library == "ours":
                    stages.append(json.loads(answer.split(maxsplit=2)[2]))
    for worker in workers.values():
        worker.kill()
    of_stages = {name: statistics.median(s[name] for s in stages) for name in stages[0]}
    return {"shape": shape, "threads": threads, **seconds, "stages": of_stages}


def line(result: dict) -> str:
    def cell(values: list[float], digits: int) -> str:
        median, least, most = (f(values) for f in (statistics.median, min, max))
        return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"

    ours, trl = result["ours"], result.get("trl")
    ratios = [a / b for a, b in zip(trl, ours, strict=True)] if trl else None
    name = f"{result['shape']}, {result['threads']} thread{'s' * (result['threads'] > 1)}"
    cells = [cell(trl, 3) if trl else "", cell(ours, 3), cell(ratios, 2) if ratios else ""]
    cells += [f"{result['stages'][name]:.3f}" for name in STAGES]
    return f"| {name} | " + " | ".join(cells) + " |"


def make_tiny(folder: Path, positions: int = 128) -> None:
    """A random GPT-2 that never samples EOS, its tokenizer, a scalar model, and prompts."""
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    from rlhf_pg.language import data, models

    texts = data.read("film-notes", "corpus")["text"]
    tokenizer = models.train_tokenizer(texts, "bpe", 1024)
    config = GPT2Config(
        n_layer=4, n_embd=128, n_head=4, n_positions=positions, vocab_size=1024,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # the logit of EOS is -100
        model.transformer.ln_f.bias[0] = 10.0
        model.transformer.wte.weight[:, 0] = 0.0
        model.transformer.wte.weight[tokenizer.eos_token_id, 0] = -10.0
    models.save(folder, model, tokenizer)
    config.num_labels = 1
    GPT2ForSequenceClassification(config).save_pretrained(folder / "critic")
    ids = [ids[:8] for ids in tokenizer(texts)["input_ids"] if len(ids) >= 8]
    prompts = [p for p in tokenizer.batch_decode(ids) if len(tokenizer(p)["input_ids"]) == 8]
    lines = "".join(json.dumps({"prompt": p}) + "\n" for p in prompts)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")


def wait() -> float:
    """Return when the next step is asked for."""
    if not sys.stdin.readline():
        os._exit(0)
    return time.perf_counter()


def reward(completions, **_):
    """A cheap reward that both libraries call: the share of a's among the characters."""
    return [text.count("a") / max(1, len(text)) for text in completions]


def work(library: str, shape: str, model: str, threads: int) -> None:
    """Take a step for every line on standard input and print its seconds."""
    import torch

    if library == "memory":
        return work_memory(shape)
    if library == "processes":
        return work_processes(shape, model, threads)
    torch.set_num_threads(threads)
    tiny = shape in S
    prompts_file = f"{model}/prompts.jsonl" if tiny else "film-notes"
    rows, tokens = (32, 24) if shape.startswith("real") else (64, 32 if tiny else 48)
    if library == "ours":
        return work_ours(config_of(shape, model, prompts_file, rows, tokens))
    if tiny:
        lines = Path(prompts_file).read_text(encoding="utf-8").splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines]
    else:
        from rlhf_pg.language import data

        prompts = data.read(prompts_file, "prompts")["prompt"] * 8
    (work_trl_ppo if shape.startswith("ppo") else work_trl)(shape, model, prompts, rows, tokens)


def config_of(shape: str, model: str, prompts: str, rows: int, tokens: int) -> "TrainConfig":
    from rlhf_pg.language.config import TrainConfig

    name = "ppo" if shape.startswith("ppo") else "grpo" if shape == "grpo" else "rloo"
    config = TrainConfig(
        algorithm=name, model=model, data=prompts, rows=rows, max_new_tokens=tokens, kl_coef=0.05,
        reward=f"{__file__}:reward",
    )  # fmt: skip
    config.learner.lr = 1e-5
    if name == "ppo":
        config.critic = "shared" if shape.endswith("s") else "separate"
        config.learner.epochs, config.learner.minibatches = int(shape[3]), 1
    if shape.startswith("real"):
        config.lora_rank, config.bf16 = 8, shape == "real-bf16"
        config.learner.lr = 1e-4
    return config


def work_ours(config: "TrainConfig") -> None:
    from rlhf_pg.language.train import Trainer

    trainer = Trainer(config, reward)
    while True:
        began = wait()
        trainer.step()
        seconds = time.perf_counter() - began
        print(f"seconds {seconds} {json.dumps(trainer.stage_seconds)}", flush=True)


def processes(steps: int, film: str | None) -> None:
    """Print the median seconds of a step with one process and with two, three runs of each."""
    print("| shape | one process, s/step | two, s/step | one / two |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_tiny(Path(folder))
        for shape, model in [("rloo", folder), ("film", film)]:
            seconds: dict[int, list[float]] = {1: [], 2: []}
            for number in [1, 2] * 3 if model else []:
                command = [sys.executable, __file__, "--threads", str(number), "--worker"]
                with tempfile.TemporaryDirectory() as run:
                    environment = dict(os.environ, OMP_NUM_THREADS="1", RUN=f"{run}/run")
                    environment |= {"STEPS": str(steps), "PYTHONPATH": str(ROOT)}
                    subprocess.run(
                        [*command, "processes", shape, model],
                        env=environment, check=True, capture_output=True,
                    )  # fmt: skip
                    lines = Path(run, "run", "metrics.jsonl").read_text().splitlines()
                times = [json.loads(line)["seconds"] for line in lines]
                steps_seconds = [b - a for a, b in itertools.pairwise(times)]
                seconds[number].append(statistics.median(steps_seconds))
            if model:
                one, two = (statistics.median(seconds[n]) for n in (1, 2))
                print(f"| {shape} | {one:.3f} | {two:.3f} | {one / two:.2f} |", flush=True)


def work_processes(shape: str, model: str, number: int) -> None:
    from rlhf_pg.language.train import train

    prompts, tokens = (f"{model}/prompts.jsonl", 32) if shape in S else ("film-notes", 48)
    config = config_of(shape, model, prompts, 64, tokens)
    config.processes, config.output = number, os.environ["RUN"]
    config.iterations = int(os.environ["STEPS"])
    train(config)


def growth(steps: int) -> None:
    """Print tokens per second of the tiny model, by the number and the length of completions."""
    import torch

    torch.set_num_threads(1)
    print("| completions | tokens each | s/step | tokens/s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_tiny(Path(folder), positions=512)
        for rows, tokens in [(2**n, 32) for n in range(5, 10)] + [(64, 2**n) for n in range(4, 9)]:
            config = config_of("rloo", folder, f"{folder}/prompts.jsonl", rows, tokens)
            median = statistics.median(seconds_of_steps(config, steps + 1)[1:])
            print(
                f"| {rows} | {tokens} | {median:.3f} | {rows * tokens / median:,.0f} |", flush=True
            )


def seconds_of_steps(config: "TrainConfig", steps: int) -> list[float]:
    from rlhf_pg.language.train import Trainer

    trainer, seconds = Trainer(config, reward), []
    for _ in range(steps):
        began = time.perf_counter()
        trainer.step()
        seconds.append(time.perf_counter() - began)
    return seconds


def memory() -> None:
    """Print peak memory and seconds of two PPO steps, 8 rows of 8 + 256 tokens, one minibatch."""
    print("| critic | peak, GB | s/step |\n|---|---|---|")
    for critic in ("separate", "shared"):
        command = [sys.executable, __file__, "--worker", "memory", critic, "gpt2"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(out.strip().splitlines()[-1], flush=True)


def work_memory(critic: str) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from rlhf_pg.language import models

    with tempfile.TemporaryDirectory() as folder:
        make_tiny(Path(folder))  # for its tokenizer and prompts
        tokenizer = models.load(folder)[1]
        torch.manual_seed(0)
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        models.save(Path(folder), GPT2LMHeadModel(GPT2Config(bos_token_id=None, **ids)), tokenizer)
        shape = "ppo1s" if critic == "shared" else "ppo1"
        seconds = seconds_of_steps(config_of(shape, folder, f"{folder}/prompts.jsonl", 8, 256), 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"| {critic} | {peak:.1f} | {min(seconds):.0f} |")


def callback():
    """A callback of transformers' trainer that prints the seconds of a step and waits for more."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        began = 0.0

        def on_train_begin(self, *_, **__):
            self.began = wait()

        def on_step_end(self, *_, **__):
            print(f"seconds {time.perf_counter() - self.began}", flush=True)
            self.began = wait()

    return Turns()


def work_trl(shape: str, model: str, prompts: list[str], rows: int, tokens: int) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    settings, trainer = (GRPOConfig, GRPOTrainer) if shape == "grpo" else (RLOOConfig, RLOOTrainer)
    adapters = {}
    if shape.startswith("real"):
        from peft import LoraConfig

        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        adapters["peft_config"] = lora
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(
            output_dir=folder, per_device_train_batch_size=rows, num_generations=4,
            max_completion_length=tokens, max_steps=10_000, beta=0.05, temperature=1.0,
            learning_rate=1e-4 if adapters else 1e-5, bf16=False, gradient_checkpointing=False,
            report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
            logging_steps=100_000,
        )  # fmt: skip
        trainer(
            model=model, reward_funcs=reward, args=arguments, callbacks=[callback()],
            processing_class=AutoTokenizer.from_pretrained(model),
            train_dataset=Dataset.from_dict({"prompt": prompts}), **adapters,
        ).train()  # fmt: skip


def work_trl_ppo(shape: str, model: str, prompts: list[str], rows: int, tokens: int) -> None:
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy, reference = (AutoModelForCausalLM.from_pretrained(model) for _ in range(2))
    scorer, critic = (
        AutoModelForSequenceClassification.from_pretrained(f"{model}/critic", num_labels=1)
        for _ in range(2)
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder, per_device_train_batch_size=rows, gradient_accumulation_steps=1,
            num_mini_batches=1, num_ppo_epochs=int(shape[3]), total_episodes=rows * 10_000,
            local_rollout_forward_batch_size=rows, response_length=tokens, temperature=1.0,
            kl_coef=0.05, learning_rate=1e-5, bf16=False, gradient_checkpointing=False,
            num_sample_generations=0, report_to="none", save_strategy="no", use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
        PPOTrainer(
            args=arguments, processing_class=tokenizer, model=policy, ref_model=reference,
            reward_model=scorer, value_model=critic, callbacks=[callback()],
            train_dataset=Dataset.from_dict({"input_ids": ids}),
        ).train()  # fmt: skip


if __name__ == "__main__":
    main()
