"""MLServer: its Kafka server, its data plane and a model of one's own; requests and answers are the JSON of V2.

A ready-made server that reads without a consumer group, commits nothing and hands the model one request at a time; its
adaptive batching made it no faster here. What it has no setting for is added: it begins at the earliest message instead
of the latest, needs no header that names the model, its answers have the contract's headers instead of CloudEvents',
and a limit holds back the task that it makes of each message: without one its producer times out on a backlog and the
answers are lost.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

from aiokafka import AIOKafkaConsumer
from mlserver import MLModel, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.handlers import DataPlane
from mlserver.kafka.handlers import MLSERVER_MODEL_NAME_HEADER
from mlserver.kafka.message import KafkaMessage
from mlserver.kafka.server import KafkaServer
from mlserver.registry import MultiModelRegistry
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.utils import install_uvloop_event_loop

from pipeline.load.peers.arguments import peer_arguments
from pipeline.load.peers.headers import answer_headers
from pipeline.load.peers.model import OnnxModel

IN_FLIGHT_MAX = 128  # faster than 64 and 256: each batch that is sent wakes all that wait for the producer


class Onnx(MLModel):  # type: ignore[misc] # the base comes with the module
    """The ONNX model at the settings' ``uri``."""

    async def load(self) -> bool:
        self._onnx = OnnxModel(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        scores = self._onnx([row.tobytes() for row in rows])
        output = {"name": self._onnx.output, "shape": list(scores.shape), "datatype": "FP32"}
        outputs = [ResponseOutput(**output, data=scores.ravel().tolist())]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


class Requests(KafkaServer):  # type: ignore[misc] # the base comes with the module
    """The Kafka server with what the module says is added, for the model of one label."""

    def __init__(self, settings: Settings, data_plane: DataPlane, label: str) -> None:
        super().__init__(settings, data_plane)
        self._label = label
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)

    def _create_server(self) -> None:
        super()._create_server()
        self._consumer = AIOKafkaConsumer(
            self._settings.kafka_topic_input,
            bootstrap_servers=self._settings.kafka_servers,
            auto_offset_reset="earliest",
        )

    async def _process_request(self, record: Any) -> None:
        request = KafkaMessage.from_kafka_record(record)
        request.headers[MLSERVER_MODEL_NAME_HEADER] = self._label
        source = f"{record.topic}/{record.partition}/{record.offset}".encode()
        headers = answer_headers(record.headers, source, self._label.encode())
        async with self._room:
            answer = await self._handlers.infer(request)
            key, value = answer.encoded_key, answer.encoded_value
            await self._producer.send_and_wait(self._settings.kafka_topic_output, value, key, headers=headers)


async def main() -> None:
    """Run until SIGTERM or SIGINT, as `MLServer` does but for the HTTP and gRPC servers."""
    arguments = peer_arguments(__doc__ or "")
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    logging.getLogger("mlserver").setLevel(logging.WARNING)  # it tells of each message
    settings = Settings(
        kafka_servers=arguments.broker,
        kafka_topic_input=arguments.requests,
        kafka_topic_output=arguments.predictions,
    )
    registry, parameters = MultiModelRegistry(), ModelParameters(uri=arguments.onnx)
    await registry.load(ModelSettings(name=arguments.label, implementation=Onnx, parameters=parameters))
    server = Requests(settings, DataPlane(settings, registry), arguments.label)
    serving = asyncio.create_task(server.start())
    print("ready", flush=True)
    await stopped.wait()
    await server.stop()
    await serving


if __name__ == "__main__":
    install_uvloop_event_loop()
    asyncio.run(main())
