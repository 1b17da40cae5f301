"""Chat templates: found, looked at, and rendered where they can do no harm."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import gguf_files

from daulat.adapters import rendering
from daulat.adapters.rendering import TRIAL, TemplateFailed, TemplateRefused
from daulat.registry import gguf, templates
from daulat.registry.gguf import BadModel
from daulat.registry.templates import Template


def template(text: str) -> Template:
    return Template("default", hashlib.sha256(text.encode()).hexdigest(), text)


# Shapes of published attacks: llama-cpp-python (CVE-2024-34359), SGLang (CVE-2026-5760), and the ways around filters.
ATTACKS = [
    (
        "{% for x in ().__class__.__base__.__subclasses__() %}{% if 'warning' in x.__name__ %}"
        "{{ x()._module.__builtins__['__import__']('os').popen('touch /tmp/pwned').read() }}{% endif %}{% endfor %}"
    ),
    "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ lipsum['__glo' ~ 'bals__'] }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__.os.popen('id').read() }}",
    "{{ namespace.__init__.__globals__.os.popen('id').read() }}",
    "{{ messages|attr('__class__') }}",
    "{{ messages|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ messages['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "{{ messages['__class__'] }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|map(attribute='content.__class__')|list }}",
    "{{ messages|selectattr('__class__')|list }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '%s'.__mod__(1) }}",
    "{{ self._TemplateReference__context }}",
    "{{ _context }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% import 'os' as os %}",
    "{% from 'x' import y %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% block a %}{% endblock %}",
    "{{ (messages|first).mro() }}",
    "{{ messages.gi_frame.f_back }}",
    "{{ messages.tb_frame }}{{ messages.func_globals }}",
    "{{ 9**9**9**9 }}",
    "{% for a in range(1000000000) %}x{% endfor %}",
    "{{ 'x' * 100000000000 }}",
    "{{ messages|pprint }}",
    "{{ messages|nosuchfilter }}",
    "{% for a in b %}" * 7 + "{% endfor %}" * 7,
    "{{" + "(" * 5000 + ")" * 5000 + "}}",
    "{{ unclosed",
    "{" + "{ x }" * 70_000,
]


@pytest.mark.parametrize("text", ATTACKS, ids=lambda text: text[:40])
def test_known_attacks_are_refused_without_running_anything(text: str) -> None:
    with pytest.raises(BadModel, match="chat template 'default'"):
        templates.check(template(text))


# What the static check cannot see, because the name is made while rendering: the sandbox is the next wall.
MADE_LATE = [
    "{% set u = '_' %}{{ messages[u ~ u ~ 'class' ~ u ~ u]['x'] }}",
    "{% set u = '_' ~ '_' %}{{ (messages|map(attribute=u ~ 'class' ~ u)|list)[0]['x'] }}",
    "{% set u = ['_','_','class','_','_']|join %}{{ (messages[u] or nothing)['x'] }}",
    "{% set f = '{0._' ~ '_class_' ~ '_.mro}' %}{{ f.format(messages) }}",
]


@pytest.mark.parametrize("text", MADE_LATE, ids=lambda text: text[:40])
def test_names_made_while_rendering_reach_nothing(text: str) -> None:
    templates.check(template(text))
    with pytest.raises((TemplateRefused, TemplateFailed)):
        rendering.render(template(text), TRIAL)


def test_a_template_that_changes_its_input_is_refused_by_the_sandbox() -> None:
    with pytest.raises(TemplateRefused, match="sandbox"):
        rendering.render(template("{{ messages.append(1) }}"), TRIAL)


@pytest.mark.parametrize(
    "text",
    [
        "{% set n = namespace(s='x' * 99) %}{% for i in range(999) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    ],
    ids=["memory", "time", "length", "recursion"],
)
def test_a_template_without_end_is_ended(text: str) -> None:
    with pytest.raises((TemplateRefused, TemplateFailed)):
        rendering.render(template(text), TRIAL, seconds=1.0)


def test_rendering_sees_neither_files_nor_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.chdir(tmp_path)
    assert rendering.render(template("{{ environ }}{{ open }}{{ os }}|"), TRIAL) == "|"
    assert list(tmp_path.iterdir()) == []


def test_ordinary_names_are_no_attack() -> None:
    names = (
        "{% for context in documents %}{{ context.func_name }}{{ config.gi_x }}{{ request['mro_name'] }}{% endfor %}"
    )
    templates.check(template(names))


def test_ordinary_templates_stand_the_check_and_render() -> None:
    chatml = (
        "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim }}"
        "{%- if message.tool_calls is defined and message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}"
        "{{- '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    templates.check(template(chatml))
    said = rendering.render(template(chatml), TRIAL)
    assert said.endswith("<|im_start|>user\nWhat is the capital of Malaysia?<|im_end|>\n<|im_start|>assistant\n")
    deepseek = (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{% set ns = namespace(is_first=false, system_prompt='', is_tool=false) %}{%- for message in messages %}"
        "{%- if message['role'] == 'system' %}{%- set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
        "{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{% generation %}"
        "{%- if message.role == 'user' %}"
        "{{'<｜User｜>' + message['content'].split('</think>')[-1]}}{%- endif %}{% endgeneration %}{%- endfor -%}"
        "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
    )
    templates.check(template(deepseek))
    assert rendering.render(template(deepseek), TRIAL).endswith("Malaysia?<｜Assistant｜><think>\n")
    strict = template("{{ raise_exception('only users') }}")
    rendering.admit(strict)
    with pytest.raises(TemplateFailed, match="only users"):
        rendering.render(strict, TRIAL)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.text(alphabet="{}%|._'\"[]() \nsetfornainmport0123456789~*", max_size=60))
def test_no_text_makes_the_check_fail_otherwise(text: str) -> None:
    try:
        templates.check(template(text))
    except BadModel as error:
        assert "chat template" in error.message  # noqa: PT017  both ways are right


def test_templates_are_found_where_models_have_them() -> None:
    keys = {**gguf_files.KEYS, "tokenizer.chat_template.tool_use": "{{ tools }}"}
    data = gguf_files.make(keys)
    found = templates.of_gguf(gguf.read(io.BytesIO(data), len(data)))
    assert [(item.name, item.text) for item in found] == [("default", "{{ messages }}"), ("tool_use", "{{ tools }}")]
    settings_ = {"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]}
    files = {
        "tokenizer_config.json": json.dumps(settings_).encode(),
        "chat_template.jinja": b"c",
        "additional_chat_templates/tool_use.jinja": b"d",
    }
    names = {item.name: item.text for item in templates.of_files(files)}
    assert names == {"default": "c", "rag": "b", "tool_use": "d", "tokenizer_config.json:default": "a"}
    assert templates.of_files({"tokenizer_config.json": b"{}"}) == ()
    for bad in ({"chat_template": 1}, {"chat_template": [1]}, {"chat_template": [{"name": "x"}]}):
        with pytest.raises(BadModel, match="neither a text nor a list"):
            templates.of_files({"tokenizer_config.json": json.dumps(bad).encode()})
