#!/usr/bin/env python3
"""Tools and reasoning end to end: a model whose vocabulary has DeepSeek-V3.1's tags of calls and thoughts, asked by the openai client.

    tools_client_test.py PATH_OF_SLUICE

The model is the bundled one's shape with 16 more tokens and random weights: what it writes is noise, so all order in an answer is the
server's. Needs requirements.txt.
"""
import json
import pathlib
import sys
import tempfile

import jsonschema
import openai

from harness import ROOT, SECONDS, binary_argument, run_all, running_server, test

DEMO = ROOT / "configs" / "demo-moe"
TAGS = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"]
WEATHER = {"type": "object",
           "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
           "required": ["city", "days"], "additionalProperties": False}
CLOCK = {"type": "object", "properties": {"zone": {"type": "string", "maxLength": 8}}, "required": ["zone"],
         "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": name, "description": f"Tells the {name}.", "parameters": schema}}
         for name, schema in (("weather", WEATHER), ("clock", CLOCK))]
SCHEMAS = {"weather": WEATHER, "clock": CLOCK}


def make_model(folder):
    """Returns the ids of the tags."""
    config = json.loads((DEMO / "config.json").read_text())
    config["vocab_size"] += 16
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    ids = {tag: len(tokenizer["model"]["vocab"]) + i for i, tag in enumerate(TAGS)}
    for tag, token in ids.items():
        tokenizer["added_tokens"].append({"id": token, "content": tag, "single_word": False, "lstrip": False, "rstrip": False,
                                          "normalized": False, "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text((DEMO / name).read_text())
    return ids


class Fixture:
    def __init__(self, address, ids):
        self.client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", timeout=SECONDS, max_retries=0)
        self.model, self.ids = self.client.models.list().data[0].id, ids

    def chat(self, **fields):
        return self.client.chat.completions.create(
            **{"model": self.model, "messages": [{"role": "user", "content": "Shall I take an umbrella?"}], "max_tokens": 160, "seed": 5,
               **fields})


def check_calls(calls):
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in calls}) == len(calls) > 0 and all(call.type == "function" for call in calls), calls


@test
def a_named_tool_is_called_with_arguments_of_its_schema(f):
    for name in SCHEMAS:
        for seed in range(4):
            choice = f.chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": name}}, temperature=1.5,
                            seed=seed).choices[0]
            assert choice.finish_reason in ("tool_calls", "stop") and not choice.message.content, choice
            check_calls(choice.message.tool_calls)
            assert {call.function.name for call in choice.message.tool_calls} == {name}, choice


@test
def some_tool_is_called_where_one_must_be(f):
    called = set()
    for seed in range(12):
        choice = f.chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1.5, seed=seed).choices[0]
        assert choice.finish_reason == "tool_calls", choice
        check_calls(choice.message.tool_calls)
        assert len(choice.message.tool_calls) == 1, choice
        called.add(choice.message.tool_calls[0].function.name)
    assert called == SCHEMAS.keys(), called


@test
def a_stream_has_the_calls_of_the_whole_answer(f):
    asked = dict(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1.5, seed=3)
    [whole] = f.chat(**asked).choices[0].message.tool_calls
    names, arguments, ids, reasons = "", "", set(), []
    for chunk in f.chat(**asked, stream=True):
        choice = chunk.choices[0]
        reasons.append(choice.finish_reason)
        for call in choice.delta.tool_calls or []:
            assert call.index == 0, call
            ids |= {call.id} - {None}
            names += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (names, arguments) == (whole.function.name, whole.function.arguments) and len(ids) == 1, (names, arguments, ids)
    assert reasons[-1] == "tool_calls" and not any(reasons[:-1]), reasons


@test
def a_result_is_answered(f):
    asked = dict(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    message = f.chat(**asked).choices[0].message
    talk = [{"role": "user", "content": "Shall I take an umbrella?"}, message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]
    before = f.chat(messages=talk[:1], tools=TOOLS, tool_choice="none", max_tokens=1).usage.prompt_tokens
    behind = f.chat(messages=talk, tools=TOOLS, tool_choice="none", max_tokens=8)
    assert behind.usage.prompt_tokens > before + 8 and not behind.choices[0].message.tool_calls, behind


@test
def a_form_begins_behind_the_thoughts(f):
    form = {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": WEATHER}}
    end = str(f.ids["</think>"])
    thinking = {"chat_template_kwargs": {"thinking": True}}
    # Thoughts that end at once, and thoughts that never end: noise does not say </think> of itself.
    message = f.chat(response_format=form, logit_bias={end: 100}, extra_body=thinking).choices[0].message
    jsonschema.validate(json.loads(message.content), WEATHER)
    thoughts = f.chat(response_format=form, logit_bias={end: -100}, max_tokens=20, extra_body=thinking).choices[0]
    assert thoughts.finish_reason == "length" and not thoughts.message.content, thoughts
    assert (getattr(thoughts.message, "reasoning_content", None) or getattr(thoughts.message, "reasoning", None)), thoughts


def main():
    binary = binary_argument(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        ids = make_model(pathlib.Path(folder))
        with running_server(binary, "--model", folder, "--random-weights", "1", "--chat-format", "deepseek-v3.1", "--http", "127.0.0.1:0",
                            door="http") as (_, address):
            return run_all(Fixture(address, ids))


if __name__ == "__main__":
    sys.exit(main())
