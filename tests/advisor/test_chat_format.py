"""A chat template frames the texts and decides nothing else: not the date, not whether the instructions arrive, not
where the answer begins, and not how long a run takes."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest

from src.advisor import chat_format as module
from src.advisor.chat_format import ChatFormat, ChatSource, chat_format
from src.advisor.models import LoadedModel, load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.errors import ConfigError

SAMPLES = (("Advise.", "What now?"), ("Say one word.", "Trend up. Position none"))
LOOP = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = CHATML + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
LLAMA_3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- endif %}<|system|>Today Date: {{ date_string }}\n\n"
    "{{ system_message }}<|eot|>"
    "{%- for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|eot|>{% endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = m.content + '\n\n' %}{% else %}[INST] {{ ns.system + m.content }}[/INST]{% endif %}{% endfor %}"
)
NO_SYSTEM_ROLE = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LOOP
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
IN_PARTS = "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}<a>"
GENERATION = LOOP + "{% generation %}{% if 0 %}x{% endif %}{% endgeneration %}<assistant>"


def found(template: str, **tokens: str) -> ChatFormat:
    made = chat_format(ChatSource(template, tokens), "some", SAMPLES)
    assert made is not None
    return made


@pytest.mark.parametrize("template", [LOOP, CHATML, QWEN, LLAMA_3, MISTRAL, GENERATION])
def test_a_template_renders_as_transformers_renders_it(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2025, 1, 1)

    monkeypatch.setattr(chat_template_utils, "datetime", Then)
    system, user = SAMPLES[1]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    (theirs,), _ = chat_template_utils.render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=True, enable_thinking=False, bos_token="<s>"
    )
    ours = found(template, bos_token="<s>")
    assert ours.text(system, user) == theirs
    assert not ours.folded


@pytest.mark.parametrize("template", [NO_SYSTEM_ROLE, DROPS_SYSTEM])
def test_instructions_without_a_place_are_folded_into_the_users_message(template: str) -> None:
    made = found(template)
    assert made.folded
    assert "<user>Instruct.\n\nAsk?" in made.text("Instruct.", "Ask?")
    assert "system" not in made.text("Instruct.", "Ask?")


def test_a_template_that_takes_its_texts_in_parts_gets_them_so() -> None:
    assert found(IN_PARTS).text("Instruct.", "Ask?") == "<system>Instruct.<user>Ask?<a>"


@pytest.mark.parametrize(
    ("opening", "ends_with"),
    [
        ("<think>\n", "<think>\n\n</think>\n\n"),
        ("<think>", "<think>\n\n</think>\n\n"),
        ("<seed:think>", "<seed:think>\n\n</seed:think>\n\n"),
        ("<reasoning>\n", "<reasoning>\n\n</reasoning>\n\n"),
        ("[THINK]", "[THINK]\n\n[/THINK]\n\n"),
        ("<think>\n\n</think>\n\n", "<assistant><think>\n\n</think>\n\n"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|channel|>", "<assistant><|channel|>final<|message|>"),
        ("<|channel|>final<|message|>", "<assistant><|channel|>final<|message|>"),
        ("<|channel>thought\n", "<|channel>thought\n<channel|>"),
        ("<|channel>thought\n<channel|>", "<assistant><|channel>thought\n<channel|>"),
        ("<|begin_of_thought|>", "<|begin_of_thought|>\n\n<|end_of_thought|>\n\n"),
        ("", "<assistant>"),
    ],
)
def test_the_answer_begins_after_a_thought_or_channel_is_closed(opening: str, ends_with: str) -> None:
    made = found(LOOP + "<assistant>{{ " + repr(opening) + " }}")  # Jinja drops a template's last line break
    assert made.after.endswith(ends_with)
    assert made.after.count("</think>") <= 1


def test_a_model_that_chooses_its_channel_itself_is_taken_to_the_final_one() -> None:
    harmony = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{# assistant messages: <|channel|>final #}<|start|>assistant"
    )
    assert found(harmony).after.endswith("<|start|>assistant<|channel|>final<|message|>")


HOSTILE = {
    "forbidden attribute": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "must not touch"),
    "forbidden method": ("{{ messages.__init__.__globals__ }}", "must not touch"),
    "changes a list": ("{{ messages.append(1) }}" + LOOP, "must not touch"),
    "namespace of internals": ("{% set n = namespace(__class__=1) %}" + LOOP, "must not touch"),
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
    "one long computation": ("{{ 7 ** (7 ** (7 ** 7)) }}", "does not end|memory"),
    "huge text": ("{{ 'a' * 10 ** 11 }}", "memory"),
    "much text": (LOOP + "{% for a in range(99999) %}much text{% endfor %}", "more than 200,000 characters"),
    "no template": ("{% if %}", "not a valid template"),
    "unknown filter": (LOOP + "{{ [1, 2, 3] | random }}", "random"),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "do not come out whole: RecursionError"),
    "loses the question": ("{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}", "question"),
    "loses everything": ("Hello", "instructions"),
    "changes the texts": (LOOP.replace("m['content']", "m['content'] | upper"), "drops, repeats or changes"),
    "says it twice": (LOOP + LOOP, "drops, repeats or changes"),
    "always raises": ("{{ raise_exception('never') }}", "never"),
    "unknown channel": (LOOP + "<|start|>assistant<|channel|>musing<|message|>", "opens a channel"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_template_that_cannot_be_used_is_refused_in_one_paragraph(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_LIMIT_S", 1)
    template, reason = HOSTILE[kind]
    began = time.process_time()
    with pytest.raises(ConfigError, match=reason) as caught:
        found(template)
    assert "\n" not in str(caught.value)
    assert "chat template" in str(caught.value)
    assert len(str(caught.value)) < 700
    assert time.process_time() - began < 5.0, "the limited process does the work"


def test_a_template_is_not_asked_again_for_every_situation() -> None:
    assert module._rendered.cache_info().maxsize
    before = module._rendered.cache_info().misses
    for _ in range(3):
        found(CHATML)
    assert module._rendered.cache_info().misses <= before + 1


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model("tiny", device="cpu", threads=1)


def test_the_same_question_reads_the_same_tomorrow(tiny: LoadedModel) -> None:
    tiny.tokenizer.chat_template = LLAMA_3
    text = LLMScorer(tiny, load_prompts())._encoder.text(1234)
    assert "Today Date: 01 Jan 2025" in text


def test_every_prompt_holds_its_instructions_and_its_question(tiny: LoadedModel) -> None:
    prompts = load_prompts()
    for template in (CHATML, DROPS_SYSTEM, NO_SYSTEM_ROLE):
        tiny.tokenizer.chat_template = template
        encoder = LLMScorer(tiny, prompts)._encoder
        for situation in (5, 1234, 3000):
            text = encoder.text(situation)
            assert text.index(prompts.system) < text.index(prompts.situation_text(situation))
