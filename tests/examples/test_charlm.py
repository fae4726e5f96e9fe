import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from statecell_examples.charlm import ALPHABET, corpus, decode, encode, load
from statecell_examples.charlm.model import WEIGHTS
from statecell_examples.charlm.train import Config, app, held_out_bits, train
from typer.testing import CliRunner

SILENT = Progress(disable=True)


def sample(prompt: str, length: int, temperature: float = 0.5) -> str:
    model, rng = load(), np.random.default_rng(0)
    x, state, text = torch.from_numpy(encode(prompt))[None], None, ""
    with torch.no_grad():
        for _ in range(length):
            logits, state = model(x, state)
            weights = (logits[0, -1].double() / temperature).softmax(0).numpy()
            x = torch.tensor([[rng.choice(len(ALPHABET), p=weights / weights.sum())]])
            text += decode(x[0].numpy())
    return text


def words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def test_shipped_weights_predict_the_held_out_end_of_the_novel_to_1_65_bits_a_character() -> None:
    assert held_out_bits(load()) < 1.65


def test_sampled_text_is_made_of_english_words() -> None:
    vocabulary = set(words(corpus.read()))
    written = words(sample("It is a truth universally acknowledged, that ", 600))
    assert len(written) > 80
    assert sum(word in vocabulary for word in written) / len(written) > 0.9


def test_a_seed_gives_the_same_weights_whatever_the_number_of_threads() -> None:
    config = Config(steps=3)
    torch.set_num_threads(2)
    first = train(config, SILENT).state_dict()
    torch.set_num_threads(1)
    again = train(config, SILENT).state_dict()
    other = train(Config(steps=3, seed=7), SILENT).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_a_hundred_steps_of_training_beat_guessing() -> None:
    assert held_out_bits(train(Config(steps=100), SILENT)) < 4.5


def test_the_command_saves_weights_of_the_shipped_shapes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "weights.pt"
    result = CliRunner().invoke(app, ["--steps", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "bits a character on the held-out end" in result.output
    trained, shipped = (torch.load(path, weights_only=True) for path in (out, WEIGHTS))
    assert {name: value.shape for name, value in trained.items()} == {name: value.shape for name, value in shipped.items()}


def test_weights_are_smaller_than_two_megabytes() -> None:
    assert WEIGHTS.stat().st_size < 2_000_000


def test_alphabet_covers_the_novel_and_every_character_comes_back() -> None:
    novel = corpus.read()
    assert set(novel) <= set(ALPHABET)
    assert decode(encode(novel)) == novel


def test_the_held_out_end_follows_the_trained_part_and_shares_nothing_with_it() -> None:
    trained, held_out = corpus.split()
    assert decode(np.concatenate([trained, held_out])) == corpus.read()
    assert len(held_out) > 30_000


def test_a_character_outside_the_alphabet_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="é"):
        encode("café")


@pytest.mark.parametrize("field", ["steps", "batch", "seq_len", "learning_rate"])
def test_a_training_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0"):
        Config(**{field: 0})
