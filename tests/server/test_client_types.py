"""Each field that the types of the installed clients have is supported, or refused by its name."""

from __future__ import annotations

from typing import Any

import anthropic.types.beta as beta
import openai.types.chat as chat
import openai.types.responses as responses
import openai.types.shared_params as shared
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import completion_create_params as text_create_params
from openai.types import embedding_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params, response_input_item_param

from vita.server import api, tool_api
from vita.server.dialects import message_blocks, message_fields, response_items, responses_api
from vita.server.request_body import RequestBody

HEADERS = {"betas", "user_profile_id", "workspace_id"}
"""Parameters of the Anthropic client that it sends as headers."""
BODIES: list[tuple[Any, type[RequestBody]]] = [
    (completion_create_params.CompletionCreateParamsNonStreaming, api.ChatRequest),
    (chat.ChatCompletionAssistantMessageParam, api.ChatMessage),
    (chat.ChatCompletionUserMessageParam, api.ChatMessage),
    (chat.ChatCompletionToolMessageParam, api.ChatMessage),
    (chat.ChatCompletionFunctionToolParam, tool_api.Tool),
    (shared.FunctionDefinition, tool_api.FunctionDefinition),
    (text_create_params.CompletionCreateParamsNonStreaming, api.CompletionRequest),
    (embedding_create_params.EmbeddingCreateParams, api.EmbeddingRequest),
    (response_create_params.ResponseCreateParamsNonStreaming, responses_api.ResponsesRequest),
    (responses.FunctionToolParam, responses_api.ResponseFunction),
    (responses.ResponseTextConfigParam, responses_api.TextOptions),
    (responses.ResponseFormatTextJSONSchemaConfigParam, responses_api.TextFormat),
    (shared.Reasoning, responses_api.ReasoningOptions),
    (responses.EasyInputMessageParam, response_items.MessageItem),
    (responses.ResponseOutputMessageParam, response_items.MessageItem),
    (response_input_item_param.Message, response_items.MessageItem),
    (responses.ResponseReasoningItemParam, response_items.ReasoningItem),
    (responses.ResponseFunctionToolCallParam, response_items.FunctionCallItem),
    (response_input_item_param.FunctionCallOutput, response_items.FunctionCallOutputItem),
    (responses.ResponseInputTextParam, response_items.TextPart),
    (responses.ResponseOutputTextParam, response_items.OutputTextPart),
    (responses.ResponseOutputRefusalParam, response_items.RefusalPart),
    (message_create_params.MessageCreateParamsNonStreaming, message_fields.MessagesRequest),
    (beta_message_create_params.MessageCreateParamsNonStreaming, message_fields.MessagesRequest),
    (message_count_tokens_params.MessageCountTokensParams, message_fields.CountTokensRequest),
    (beta.message_count_tokens_params.MessageCountTokensParams, message_fields.CountTokensRequest),
    (beta.BetaToolParam, message_fields.ClientTool),
    (beta.BetaToolChoiceAutoParam, message_fields.ToolChoice),
    (beta.BetaToolChoiceToolParam, message_fields.ToolChoice),
    (beta.BetaThinkingConfigEnabledParam, message_fields.Thinking),
    (beta.BetaThinkingConfigAdaptiveParam, message_fields.Thinking),
    (beta.BetaOutputConfigParam, message_fields.OutputConfig),
    (beta.BetaJSONOutputFormatParam, message_fields.OutputFormat),
    (beta.BetaMetadataParam, message_fields.MessageMetadata),
    (beta.BetaSystemMessageParam, message_blocks.InputMessage),
    (beta.BetaUserMessageParam, message_blocks.InputMessage),
    (beta.BetaAssistantMessageParam, message_blocks.InputMessage),
    (beta.BetaTextBlockParam, message_blocks.InputText),
    (beta.BetaThinkingBlockParam, message_blocks.InputThinking),
    (beta.BetaToolUseBlockParam, message_blocks.InputToolUse),
    (beta.BetaToolResultBlockParam, message_blocks.InputToolResult),
]


@pytest.mark.parametrize(("fields", "body"), BODIES, ids=lambda value: value.__name__)
def test_every_field_of_a_client_is_known(fields: Any, body: type[RequestBody]) -> None:
    known = {field.alias or name for name, field in body.model_fields.items()} | set(body.unsupported)
    names = fields.__required_keys__ | fields.__optional_keys__
    assert names - known - HEADERS == set()
