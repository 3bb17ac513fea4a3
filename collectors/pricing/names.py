"""Which names a model id is looked up under: exact rules, most specific first.

The record keeps the id as the source wrote it; these names exist for the price look-up only. No
rule guesses: each takes away one decoration whose meaning is documented by its vendor.
"""

from __future__ import annotations

import re

# Provider values of OpenTelemetry and of the sources -> provider ids of the bundled book.
PROVIDERS = {
    "anthropic": "anthropic",
    "arcee": "arcee",
    "aws": "aws",
    "aws.bedrock": "aws",
    "azure": "azure",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "baseten": "baseten",
    "bedrock": "aws",
    "cerebras": "cerebras",
    "cloudflare": "cloudflare",
    "cohere": "cohere",
    "copilot": "github-copilot",
    "cursor": "cursor",
    "databricks": "databricks",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "fireworks_ai": "fireworks",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "gemini": "google",
    "github-copilot": "github-copilot",
    "github_copilot": "github-copilot",
    "google": "google",
    "groq": "groq",
    "meta": "meta",
    "minimax": "minimax",
    "mistral": "mistral",
    "mistral_ai": "mistral",
    "modal": "modal",
    "moonshot": "moonshotai",
    "moonshot_ai": "moonshotai",
    "moonshotai": "moonshotai",
    "novita": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "ovhcloud": "ovhcloud",
    "perplexity": "perplexity",
    "together": "together",
    "together_ai": "together",
    "vertex_ai": "google",
    "voyage_ai": "voyageai",
    "voyageai": "voyageai",
    "x-ai": "x-ai",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "z_ai": "zai",
    "zai": "zai",
    "zhipuai": "zhipuai",
}

# Sources that pass calls on: the model id itself says who bills.
_PASS_THROUGH = frozenset({"", "litellm"})

_LONG_CONTEXT = "[1m]"
_ARN = re.compile(r"^arn:aws[\w-]*:bedrock:[^/]*/")
_BEDROCK_VENDOR = re.compile(
    r"^(?:(?:us|us-gov|eu|apac|au|jp|in|ca|sa|global)\.)?anthropic\.(?=claude)"
)
_BEDROCK_VERSION = re.compile(r"-v\d+(?::\d+)?$")
_VERTEX_VERSION = re.compile(r"@(?:\d{8}|default|latest)$")
_COMPACT_DATE = re.compile(r"-20\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$")
_DATED_FAMILY = re.compile(r"(?:^|[./])claude-")


def book_id(provider: str) -> str:
    """The bundled book's id of a provider; one that the book does not know keeps its own name."""
    name = provider.strip().lower()
    return PROVIDERS.get(name, name)


def lookups(provider: str, model: str) -> list[tuple[str, str]]:
    """The (book provider, name) pairs to try, in order, for a model id as its source wrote it.

    A Bedrock id recorded under `anthropic` (a coding agent that talks to Bedrock) is priced by
    Amazon's list first, because regional endpoints cost more than Anthropic's own list says.
    """
    book, name = book_id(provider), model.strip().lower()
    prefix, slash, rest = name.partition("/")
    if slash and book in _PASS_THROUGH and prefix in PROVIDERS:
        book, name = PROVIDERS[prefix], rest
    elif slash and (PROVIDERS.get(prefix) == book or (book == "google" and prefix == "models")):
        return _distinct([(book, name), *_undecorated(book, rest)])
    return _distinct(_undecorated(book, name))


def plain_name(model: str) -> str:
    """The model id without any decoration, as rules about model families see it."""
    return _steps(model.strip().lower().rpartition("/")[2], True)[-1]


def _undecorated(book: str, name: str) -> list[tuple[str, str]]:
    names = _steps(name, book == "openrouter" or bool(_DATED_FAMILY.search(name)))
    pairs = [(book, each) for each in names]
    if book == "anthropic":
        pairs = [("aws", each) for each in names if _BEDROCK_VENDOR.match(each)] + pairs
    return pairs


def _steps(name: str, dated: bool) -> list[str]:
    """The name, and what is left after each rule that applies to it."""
    names = [name]
    if name.endswith(_LONG_CONTEXT):
        names.append(names[-1].removesuffix(_LONG_CONTEXT))
    names.append(_ARN.sub("", names[-1]))
    if _BEDROCK_VENDOR.match(names[-1]):
        names.append(_BEDROCK_VERSION.sub("", names[-1]))
        names.append(_BEDROCK_VENDOR.sub("", names[-1]))
    names.append(_VERTEX_VERSION.sub("", names[-1]))
    if dated:
        names.append(_COMPACT_DATE.sub("", names[-1]))
    return names


def _distinct(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(pairs))
