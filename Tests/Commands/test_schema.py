"""Constrained decoding against Python's jsonschema: random schemas, random texts of them, documents that fit and do not."""

import copy
import datetime
import json
import os
import random
import subprocess
import tempfile
import unittest
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parents[2]
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))
MODEL = os.environ["APUS_TEST_MODEL"]

# Patterns with texts that match them.
PATTERNS = {
    "^[a-z]{2,5}$": ["ab", "abcde", "xyz"],
    "^(foo|bar)+-?[0-9]*$": ["foo", "barfoo-12", "foofoo7"],
    "\\d\\d": ["12", "x99y", "é 10"],
    "^[^\\s\"]+$": ["a\\b", "日本", "x/y"],
    "z$": ["z", "abcz"],
}
FORMATS = {
    "date": ["2024-02-29", "0001-01-31", "2000-02-29"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "ipv4": ["1.2.3.4", "255.250.199.0"],
    "email": ["a.b+c@example.org"],
    "date-time": ["2024-02-29T23:59:59Z", "1999-12-31T00:00:00.125+01:30"],
}
WORDS = ["", "a", "name", "ü", "quo\"te", "back\\slash", "new\nline", "emoji 😀", "tab\t", "long text with words"]

CHECKER = jsonschema.FormatChecker(["date", "uuid", "ipv4", "ipv6", "email"])


@CHECKER.checks("date-time", raises=ValueError)
def is_date_time(text):
    return not isinstance(text, str) or datetime.datetime.fromisoformat(text).tzinfo is not None


def validator(schema):
    return jsonschema.Draft202012Validator(schema, format_checker=CHECKER)


class Maker:
    """Random schemas of what is supported, and random values of them."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def schema(self, depth=3):
        root = self.value_schema(depth)
        if self.random.random() < 0.4:
            # A recursive definition, and a use of it.
            root = {"$defs": {"node/a": self.node_schema()}, "type": "object", "required": ["tree"],
                    "properties": {"tree": {"$ref": "#/$defs/node~1a", "description": "d"}, "other": root}}  # fmt: skip
        return root

    def node_schema(self):
        children = {"type": "array", "items": {"$ref": "#/$defs/node~1a"}, "maxItems": 2}
        return {"type": "object", "properties": {"value": {"type": "integer"}, "children": children},
                "required": ["value"], "additionalProperties": False}  # fmt: skip

    def value_schema(self, depth):
        kinds = ["string", "string", "integer", "number", "enum", "boolean", "mixed"]
        if depth > 0:
            kinds += ["object"] * 4 + ["array"] * 2 + ["tuple", "anyOf", "allOf"]
        return getattr(self, self.random.choice(kinds) + "_schema")(depth)

    def string_schema(self, _):
        schema = {"type": "string"}
        kind = self.random.random()
        if kind < 0.3:
            schema["pattern"] = self.random.choice(list(PATTERNS))
            if self.random.random() < 0.5:
                schema["maxLength"] = self.random.randint(4, 9)
        elif kind < 0.5:
            schema["format"] = self.random.choice(list(FORMATS))
        elif kind < 0.8:
            schema["minLength"] = self.random.randint(0, 3)
            schema["maxLength"] = self.random.randint(3, 20)
        return schema

    def integer_schema(self, _):
        low = self.random.randint(-120, 120)
        schema = {"type": "integer"}
        if self.random.random() < 0.7:
            schema[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.random.random() < 0.7:
            schema[self.random.choice(["maximum", "exclusiveMaximum"])] = low + self.random.randint(3, 1500)
        if self.random.random() < 0.2:
            schema["multipleOf"] = self.random.choice([1, 2, 3])
        return schema

    def number_schema(self, _):
        low = round(self.random.uniform(-50, 50), self.random.randint(0, 3))
        schema = {"type": "number"}
        if self.random.random() < 0.6:
            schema[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.random.random() < 0.6:
            schema[self.random.choice(["maximum", "exclusiveMaximum"])] = low + round(self.random.uniform(0.5, 200), 2)
        return schema

    def boolean_schema(self, _):
        return {"type": "boolean"}

    def enum_schema(self, _):
        if self.random.random() < 0.3:
            return {"const": self.random.choice(["only", 7, None, {"a": [1]}, [True, "x"]])}
        return {"enum": self.random.sample(["red", "green", "grün", 1, 2.5, None, True, "with \"quotes\""], 4)}

    def mixed_schema(self, _):
        return {"type": self.random.sample(["string", "integer", "null", "boolean", "array"], 2)}

    def object_schema(self, depth):
        names = self.random.sample(["name", "age", "größe", "a b", "tags", "x/y", "k"], self.random.randint(0, 4))
        schema = {"type": "object", "properties": {name: self.value_schema(depth - 1) for name in names}}
        if names:
            schema["required"] = self.random.sample(names, self.random.randint(0, len(names)))
        additional = self.random.random()
        if additional < 0.6:
            schema["additionalProperties"] = False
        elif additional < 0.8:
            schema["additionalProperties"] = self.value_schema(0)
        return schema

    def array_schema(self, depth):
        schema = {"type": "array", "items": self.value_schema(depth - 1)}
        if self.random.random() < 0.6:
            schema["minItems"] = self.random.randint(0, 2)
            schema["maxItems"] = self.random.randint(2, 5)
        return schema

    def tuple_schema(self, depth):
        items = [self.value_schema(depth - 1) for _ in range(self.random.randint(1, 3))]
        schema = {"type": "array", "prefixItems": items, "minItems": self.random.randint(0, len(items))}
        if self.random.random() < 0.5:
            schema["items"] = False
        return schema

    def anyOf_schema(self, depth):
        return {"anyOf": [self.value_schema(depth - 1) for _ in range(2)]}

    def allOf_schema(self, depth):
        parts = [self.object_schema(depth - 1) for _ in range(2)]
        for part in parts:
            part.pop("additionalProperties", None)
        return {"allOf": parts}

    # Values

    def value(self, schema, root):
        """A value that should fit; the caller checks that it does."""
        pick = self.random
        if "$ref" in schema:
            return self.value(root["$defs"]["node/a"], root)
        if "anyOf" in schema:
            return self.value(pick.choice(schema["anyOf"]), root)
        if "allOf" in schema:
            merged = {"type": "object", "properties": {}, "required": []}
            for part in schema["allOf"]:
                for name, value in part["properties"].items():
                    merged["properties"].setdefault(name, value)
                merged["required"] += part.get("required", [])
            return self.value(merged, root)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return pick.choice(schema["enum"])
        kind = schema["type"] if isinstance(schema["type"], str) else pick.choice(schema["type"])
        return getattr(self, kind + "_value")(schema, root)

    def null_value(self, *_):
        return None

    def boolean_value(self, *_):
        return self.random.random() < 0.5

    def string_value(self, schema, _):
        if "pattern" in schema:
            return self.random.choice(PATTERNS[schema["pattern"]])
        if "format" in schema:
            return self.random.choice(FORMATS[schema["format"]])
        text = self.random.choice(WORDS)
        return (text + "xyz")[: schema.get("maxLength", 99)]

    def bounds(self, schema):
        low = schema.get("minimum", schema.get("exclusiveMinimum", schema.get("maximum", schema.get("exclusiveMaximum", 90)) - 90))
        return low, schema.get("maximum", schema.get("exclusiveMaximum", low + 90))

    def integer_value(self, schema, _):
        low, high = self.bounds(schema)
        return self.random.choice([low, high, self.random.randint(low, high)])

    def number_value(self, schema, _):
        low, high = self.bounds(schema)
        return self.random.choice([low, high, round(self.random.uniform(low, high), self.random.randint(0, 6))])

    def array_value(self, schema, root):
        prefix = schema.get("prefixItems", [])
        least, most = schema.get("minItems", 0), schema.get("maxItems", len(prefix) + (schema.get("items") is not False))
        count = self.random.randint(min(least, most), max(least, most))
        items = schema.get("items") or {"type": "integer"}
        return [self.value(prefix[i] if i < len(prefix) else items, root) for i in range(count)]

    def object_value(self, schema, root):
        value = {}
        for name, part in schema.get("properties", {}).items():
            if name in schema.get("required", []) or self.random.random() < 0.5:
                value[name] = self.value(part, root)
        additional = schema.get("additionalProperties", {"type": "integer"})
        if additional and self.random.random() < 0.4:
            value["more"] = self.value(additional, root)
        return value

    def broken(self, value):
        """The value with something else in one place."""
        value = copy.deepcopy(value)
        other = self.random.choice([None, -1, 10**9, 0.123456, "?", "A1", [], {}, True, ["?", 1], {"zzz": 1}])
        if isinstance(value, dict) and value and self.random.random() < 0.8:
            name = self.random.choice(list(value))
            if self.random.random() < 0.3:
                del value[name]
            else:
                value[name] = self.broken(value[name])
            return value
        if isinstance(value, list) and value and self.random.random() < 0.8:
            place = self.random.randrange(len(value))
            value[place] = self.broken(value[place])
            return value
        return other


def examine(schemas, documents=(), *options):
    """What apus says of schemas and documents (texts without newlines)."""
    with tempfile.TemporaryDirectory() as folder:
        schema_file, document_file = Path(folder) / "schemas.json", Path(folder) / "documents.jsonl"
        schema_file.write_text(json.dumps(schemas))
        document_file.write_text("".join(text + "\n" for text in documents))
        done = subprocess.run(
            [APUS, "schema", MODEL, schema_file, "--accept", document_file, "--json", *map(str, options)],
            capture_output=True, timeout=300)  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(done.stderr.decode())
    return json.loads(done.stdout)


def texts(value):
    compact = {"separators": (",", ":")}
    return [json.dumps(value, **compact, ensure_ascii=False), json.dumps(value, ensure_ascii=False)]


class RandomSchemas(unittest.TestCase):
    SEEDS = 4
    SCHEMAS = 30

    def test_texts_fit_and_documents_are_judged_right(self):
        compiled = samples = fitting = unfitting = 0
        for seed in range(self.SEEDS):
            maker = Maker(seed)
            schemas = [maker.schema() for _ in range(self.SCHEMAS)]
            validators = [validator(schema) for schema in schemas]
            documents, owners = [], []
            for index, schema in enumerate(schemas):
                for _ in range(12):
                    value = maker.value(schema, schema)
                    if validators[index].is_valid(value):
                        documents += texts(value)
                        owners += [index, index]
                    documents.append(texts(maker.broken(value))[0])
                    owners.append(None)
            results = examine(schemas, documents, "--seed", seed, "--samples", 6, "--tokens", 40)
            for index, (schema, result) in enumerate(zip(schemas, results, strict=True)):
                if "error" in result:
                    # Parts that hold together may leave nothing: then no value was found either.
                    self.assertEqual(result["error"], "no finite JSON value fits the schema", schema)
                    self.assertNotIn(index, owners, schema)
                    continue
                compiled += 1
                self.assertEqual(result["deadEnds"], 0, schema)
                for sample in result["samples"]:
                    if sample is None:
                        continue
                    samples += 1
                    errors = list(validators[index].iter_errors(json.loads(sample)))
                    self.assertEqual(errors, [], f"{sample} of {json.dumps(schema)}")
                for text, owner, accepted in zip(documents, owners, result["accepted"], strict=True):
                    if owner == index:
                        fitting += 1
                        self.assertTrue(accepted, f"{text} of {json.dumps(schema)}")
                    elif accepted:
                        self.assertTrue(validators[index].is_valid(json.loads(text)), f"{text} of {json.dumps(schema)}")
                    else:
                        unfitting += 1
        # The test is only as good as what it tried.
        self.assertGreater(compiled, self.SEEDS * self.SCHEMAS * 0.9)
        self.assertGreater(samples, self.SEEDS * self.SCHEMAS * 4)
        self.assertGreater(fitting, self.SEEDS * self.SCHEMAS * 8)
        self.assertGreater(unfitting, self.SEEDS * self.SCHEMAS * 100)


class WhatUsersSend(unittest.TestCase):
    def accepted(self, schema, *values):
        result = examine([schema], [texts(value)[0] for value in values])[0]
        self.assertNotIn("error", result)
        return result["accepted"]

    def test_pydantic_output(self):
        # What pydantic 2.13 writes for a model with an optional field, a nested model, a union told apart by a literal,
        # a dictionary and a tuple.
        schema = {
            "$defs": {
                "Cat": {"properties": {"kind": {"const": "cat", "title": "Kind", "type": "string"},
                                       "lives": {"default": 9, "title": "Lives", "type": "integer"}},
                        "required": ["kind"], "title": "Cat", "type": "object"},
                "Dog": {"properties": {"kind": {"const": "dog", "title": "Kind", "type": "string"},
                                       "breed": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}},
                        "required": ["kind"], "title": "Dog", "type": "object"},
                "Color": {"enum": ["red", "green"], "title": "Color", "type": "string"},
            },
            "properties": {
                "pet": {"discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "kind"},
                        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "title": "Pet"},
                "color": {"$ref": "#/$defs/Color", "default": "red"},
                "scores": {"additionalProperties": {"type": "number"}, "title": "Scores", "type": "object"},
                "pair": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "integer"}, {"type": "string"}],
                         "type": "array"},
                "born": {"format": "date", "type": "string"},
                "price": {"anyOf": [{"type": "number"}, {"pattern": "^\\d+$", "type": "string"}]},
            },
            "required": ["pet", "pair"], "title": "Owner", "type": "object",
        }  # fmt: skip
        right = [
            {"pet": {"kind": "cat", "lives": 7}, "pair": [1, "x"]},
            {"pet": {"kind": "dog", "breed": None}, "color": "green", "scores": {"a": 1.5, "b": -2}, "pair": [0, ""],
             "born": "2020-02-29", "price": "12"},
        ]  # fmt: skip
        wrong = [
            {"pet": {"kind": "cow"}, "pair": [1, "x"]}, {"pet": {"kind": "cat"}, "pair": [1]},
            {"pet": {"kind": "cat", "lives": "7"}, "pair": [1, "x"]},
            {"pet": {"kind": "cat"}, "pair": [1, "x"], "born": "2021-02-29"},
            {"pet": {"kind": "cat"}, "color": "blue", "pair": [1, "x"]},
        ]  # fmt: skip
        self.assertEqual(self.accepted(schema, *right, *wrong), [True] * 2 + [False] * 5)
        for value in right:
            self.assertTrue(validator(schema).is_valid(value))

    def test_any_object(self):
        self.assertEqual(
            self.accepted({"type": "object"}, {}, {"a": [1, {"b": None}], "": "x"}, [], 1), [True, True, False, False])

    def test_what_is_not_supported_is_named_with_its_place(self):
        for schema, place in [
            ({"not": {}}, "#/not"),
            ({"properties": {"a": {"if": {}}}}, "#/properties/a/if"),
            ({"items": {"uniqueItems": True}}, "#/items/uniqueItems"),
            ({"type": "string", "format": "zip-code"}, "#/format"),
            ({"type": "string", "pattern": "(?=a)b"}, "#/pattern"),
            ({"$defs": {"A": {"typo": 1}}, "$ref": "#/$defs/A"}, "#/$defs/A/typo"),
            ({"$ref": "https://example.org/schema"}, "#/$ref"),
            ({"type": "decimal"}, "#/type"),
            ({"type": "object", "minProperties": 1}, "#"),
        ]:
            error = examine([schema])[0]["error"]
            self.assertTrue(error.startswith(place + ":"), f"{error} of {schema}")


if __name__ == "__main__":
    unittest.main()
