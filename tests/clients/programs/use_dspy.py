"""DSPy's modules, whole and streamed."""

from typing import Any

import dspy
from case_server import case, serve

Api = dict[str, Any]


def model(api: Api) -> Any:
    """DSPy's own client; with nothing but the environment to go by, it takes LiteLLM."""
    return dspy.LM("openai/gpt-4o", cache=False, **api)


@case
def predict(api: Api, question: str) -> str:
    with dspy.context(lm=model(api)):
        answer: str = dspy.Predict("question -> answer")(question=question).answer
        return answer


@case
async def predict_async(api: Api, question: str) -> str:
    with dspy.context(lm=model(api)):
        answer: str = (await dspy.Predict("question -> answer").acall(question=question)).answer
        return answer


@case
async def predict_stream(api: Api, question: str) -> list[str]:
    """The pieces of the answer, as they arrive."""
    listeners = [dspy.streaming.StreamListener(signature_field_name="answer")]
    predict = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=listeners)
    with dspy.context(lm=model(api)):
        pieces = predict(question=question)
        return [piece.chunk async for piece in pieces if isinstance(piece, dspy.streaming.StreamResponse)]


if __name__ == "__main__":
    serve()
