"""A Modbus TCP device of pymodbus, and a line protocol by which a story plays its physics.

Usage: modbus_device.py MODBUS_PORT CONTROL_PORT. Both listen on 127.0.0.1. All four kinds of register share one block.
Control, one line each: `set ADDRESS VALUE`, `get ADDRESS`, `requests` (how many were served), `fail NAME` (every request gets
this Modbus exception, such as DEVICE_FAILURE; `fail none` ends it).
"""

import asyncio
import sys

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

UNIT = 1
failure = None
served = 0
is_control = False


async def on_access(function, start, address, count, registers, values):
    global served
    if is_control:
        return None
    served += 1
    return failure


async def control(server, reader, writer):
    global failure, is_control
    while line := await reader.readline():
        words = line.decode().split()
        answer = "?"
        is_control = True
        if words[:1] == ["set"]:
            await server.context.async_setValues(UNIT, 16, int(words[1]), [int(words[2])])
            answer = "ok"
        elif words[:1] == ["get"]:
            answer = str((await server.context.async_getValues(UNIT, 3, int(words[1]), 1))[0])
        elif words[:1] == ["requests"]:
            answer = str(served)
        elif words[:1] == ["fail"]:
            failure = None if words[1] == "none" else ExcCodes[words[1]]
            answer = "ok"
        is_control = False
        writer.write(f"{answer}\n".encode())
        await writer.drain()
    writer.close()


async def main():
    modbus_port, control_port = int(sys.argv[1]), int(sys.argv[2])
    device = SimDevice(
        id=UNIT,
        simdata=SimData(address=0, count=1000, values=0, datatype=DataType.REGISTERS),
        action=on_access,
    )
    server = ModbusTcpServer(device, address=("127.0.0.1", modbus_port))
    await server.serve_forever(background=True)
    await asyncio.start_server(lambda r, w: control(server, r, w), "127.0.0.1", control_port)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
