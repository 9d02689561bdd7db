from __future__ import annotations

import json
import shutil

import local_models
import pytest

from tests.examples.conftest import byte_tokenizer, entries, run, save_language_model, spread
from vactk.data.annotations.descriptions import read_descriptions

pytest.importorskip("transformers")


@pytest.mark.parametrize("chat", [True, False])
def test_the_language_model_is_told_captions_and_no_names(folder, captioner, tmp_path, monkeypatch, chat):
    from transformers import GPT2LMHeadModel

    model = save_language_model(tmp_path / "gpt", chat=chat)
    seen, generate = [], GPT2LMHeadModel.generate

    def spy(self, *, input_ids, **settings):
        seen.append(input_ids[0])
        assert settings["do_sample"] is False
        return generate(self, input_ids=input_ids, **settings)

    monkeypatch.setattr(GPT2LMHeadModel, "generate", spy)
    output = tmp_path / "out.jsonl"
    result = run(
        folder, "--output", output, "--captioner", captioner, "--language-model", model, "--frames", 2
    )
    assert result.exit_code == 0, result.stderr + result.stdout
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [tokenizer.decode(ids) for ids in seen]
    lines = entries(output)
    assert len(prompts) == len(lines) == 3
    for prompt, line in zip(prompts, lines, strict=True):
        listed = "\n".join(f"- {caption}" for caption in line["captions"])
        text = local_models.PROMPT.format(captions=listed)
        assert prompt == (f"<s>{text}</s>A:" if chat else text + local_models.COMPLETION)
        for name in ("juggling", "waving", "zebra", "yak", "clips", ".mp4", ".mkv", str(tmp_path)):
            assert name not in prompt
        assert len(line["descriptions"]) == 1
        assert line["descriptions"] != line["captions"]
    assert set(read_descriptions(output)) == {line["video"] for line in lines}


def test_too_many_captions_for_the_language_model_fail_by_video(folder, captioner, tmp_path):
    model = save_language_model(tmp_path / "short", chat=True, positions=64)
    result = run(
        folder, "--output", tmp_path / "out.jsonl", "--captioner", captioner, "--language-model", model
    )
    assert result.exit_code == 1
    assert "more than the 64 of the language model: lower --frames or --max-new-tokens" in result.stderr


def test_weights_that_lack_a_part_are_refused(folder, captioner, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(captioner, tmp_path / "broken-blip")
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if name.endswith("vision_model.post_layernorm.weight"))
    weights.pop(name)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    result = run(folder, "--output", tmp_path / "out.jsonl", "--captioner", broken)
    assert result.exit_code == 1
    assert "1 are missing, such as" in result.stderr


def other_captioner(kind):
    """A tiny captioner that is built otherwise than BLIP, and its image processor."""
    import transformers as hub

    words = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    pictures = {"image_size": 32, "patch_size": 8}
    size = {"height": 32, "width": 32}
    if kind == "git":
        config = hub.GitConfig(vision_config={**layers, **pictures}, **layers, **words)
        crop = hub.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
        return hub.GitForCausalLM(config), crop
    if kind == "blip-2":
        text = {"model_type": "opt", **words, "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1}
        text |= {"num_attention_heads": 2, "word_embed_proj_dim": 16, "max_position_embeddings": 96}
        config = hub.Blip2Config(
            vision_config={**layers, **pictures},
            qformer_config={**layers, "vocab_size": 259, "encoder_hidden_size": 16},
            text_config=text,
            num_query_tokens=3,
            image_token_index=0,
        )
        return hub.Blip2ForConditionalGeneration(config), hub.BlipImageProcessor(size=size)
    encoder = hub.ViTModel(hub.ViTConfig(**layers, **pictures))
    gpt = hub.GPT2Config(n_embd=16, n_layer=1, n_head=2, add_cross_attention=True, **words)
    model = hub.VisionEncoderDecoderModel(encoder=encoder, decoder=hub.GPT2LMHeadModel(gpt))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    return model, hub.ViTImageProcessor(size=size)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["git", "blip-2", "encoder-decoder"])
def test_captioners_of_other_kinds(folder, tmp_path, kind, precision):
    model, pictures = other_captioner(kind)
    place = tmp_path / "model"
    spread(model).save_pretrained(place)
    pictures.save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    wanted = ["--captioner", place, "--frames", 2, "--max-new-tokens", 12, "--precision", precision]
    result = run(folder, "--output", tmp_path / "out.jsonl", *wanted)
    assert result.exit_code == 0, result.stderr + result.stdout
    lines = entries(tmp_path / "out.jsonl")
    assert len(lines) == 3
    assert len({tuple(line["captions"]) for line in lines}) > 1


def test_a_captioner_that_wants_to_be_asked_is_refused(folder, captioner, tmp_path):
    asked = shutil.copytree(captioner, tmp_path / "chat-blip")
    (asked / "chat_template.jinja").write_text("{{ messages }}")
    settings = json.loads((asked / "tokenizer_config.json").read_text())
    (asked / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    result = run(folder, "--output", tmp_path / "out.jsonl", "--captioner", asked)
    assert result.exit_code == 1
    assert "answers questions about pictures; take a model that captions them" in result.stderr


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A dog runs. It catches a", "A dog runs."),
        ("A dog runs. It barks.", "A dog runs. It barks."),
        ("A dog that", "A dog that"),
        ("What? A dog! A", "What? A dog!"),
    ],
)
def test_a_cut_answer_ends_with_a_whole_sentence(text, kept):
    assert local_models.whole_sentences(text) == kept
