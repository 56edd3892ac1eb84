"""Small tokenizers of the three kinds that real bases bring, and a way to write data files."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError, PetrunError, TrainingError
from tests.data.loading import read_examples

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "name : Alimentum | area : city centre | family friendly : no",
    "There is a place in the city centre, Alimentum, that is not family-friendly.",
    "user assistant system\nWhat is the capital of France? Paris. Why? Because it is.",
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save(folder, backend, **config):
    folder.mkdir(parents=True, exist_ok=True)
    if backend is not None:
        backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def byte_level(vocab_size=400, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def sentence_piece():
    """As Llama 2: BOS in front, a space of its own before every text, bytes for unknown characters."""
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False)
    )
    learned = json.loads(trained.to_str())["model"]
    backend = Tokenizer(
        models.BPE(
            vocab=learned["vocab"],
            merges=[tuple(pair) for pair in learned["merges"]],
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return backend


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("bpe"), byte_level(), eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def bpe(bpe_folder):
    """GPT-2's kind: no BOS; <|im_end|> ends a text; no chat template."""
    return load_tokenizer(bpe_folder)


@pytest.fixture(scope="session")
def chat(tmp_path_factory):
    """The same with a ChatML template."""
    folder = tmp_path_factory.mktemp("chat")
    save(folder, byte_level(), eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML)
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def spiece(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spiece")
    save(folder, sentence_piece(), bos_token="<s>", eos_token={"content": "</s>"}, unk_token="<unk>")
    return load_tokenizer(folder)


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a good bad film movie is not was ##s ##ing act , . very long word"


@pytest.fixture(scope="session")
def word_piece(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wordpiece")
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")
    return load_tokenizer(folder)


@pytest.fixture
def write(tmp_path):
    """write(name, rows or text or bytes) -> path; a list of objects becomes JSON lines."""

    def put(name, content):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="")
        else:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
        return path

    return put


@pytest.fixture
def refused(write, bpe, chat):
    """refused(name, content, task, message, hint): loading such a file raises that message, with `hint` in the way out.

    In `message` a leading "F" stands for the file's path.
    """

    def check(name, content, task, message, hint):
        path = write(name, content)
        separator, task = ("||", None) if task == "separated" else (None, task)
        tokenizer = chat if "messages" in str(content) else bpe
        with pytest.raises(PetrunError) as caught:
            read_examples(path, task=task, tokenizer=tokenizer, seq_len=48, separator=separator, vocab_size=400)
        assert isinstance(caught.value, DataError | TrainingError)
        expected = str(path) if message == "F" else message.replace("F,", f"{path},").replace("F:", f"{path}:")
        assert expected in caught.value.message
        assert hint in caught.value.hint

    return check
