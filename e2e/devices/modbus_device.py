"""A Modbus TCP device and a serial line with another, both of pymodbus, and a line protocol by which a story plays their physics.

Usage: modbus_device.py MODBUS_PORT CONTROL_PORT FOLDER ADDRESS. Both listen on that address. On TCP all four kinds of register share one block; on
the serial line, a pair of pseudo terminals, each has its own.
Control, one line each: `set ADDRESS VALUE`, `get ADDRESS`, `requests` (how many were served on TCP), `fail NAME` (every request
there gets this Modbus exception, such as DEVICE_FAILURE; `fail none` ends it); `line` (the device file of the serial line),
`line set KIND ADDRESS VALUE`, `line get KIND ADDRESS` with KIND coil, discrete, holding or input.
"""

import asyncio
import os
import select
import sys
import threading
import tty

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

UNIT = 1
# Function codes that read and write each kind; inputs are written by their reading one.
KINDS = {"coil": (1, 15), "discrete": (2, 2), "holding": (3, 16), "input": (4, 4)}
failure = None
served = 0
is_control = False


async def on_access(function, start, address, count, registers, values):
    global served
    if is_control:
        return None
    served += 1
    return failure


def pair_of_terminals():
    """Two ends of a wire: what goes into one comes out of the other."""
    (one, inner), (other, outer) = os.openpty(), os.openpty()
    for end in (inner, outer):
        tty.setraw(end)

    def carry():
        while True:
            for end in select.select([one, other], [], [])[0]:
                os.write(other if end == one else one, os.read(end, 4096))

    threading.Thread(target=carry, daemon=True).start()
    return os.ttyname(inner), os.ttyname(outer)


async def on_line(line, path, words):
    if not words:
        return path
    reads, writes = KINDS[words[1]]
    if words[0] == "set":
        value = int(words[3])
        await line.context.async_setValues(UNIT, writes, int(words[2]), [bool(value) if reads < 3 else value])
        return "ok"
    return str(int((await line.context.async_getValues(UNIT, reads, int(words[2]), 1))[0]))


async def control(server, line_server, path, reader, writer):
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
        elif words[:1] == ["line"]:
            answer = await on_line(line_server, path, words[1:])
        elif words[:1] == ["fail"]:
            failure = None if words[1] == "none" else ExcCodes[words[1]]
            answer = "ok"
        is_control = False
        writer.write(f"{answer}\n".encode())
        await writer.drain()
    writer.close()


async def main():
    modbus_port, control_port, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4]
    device = SimDevice(
        id=UNIT,
        simdata=SimData(address=0, count=1000, values=0, datatype=DataType.REGISTERS),
        action=on_access,
    )
    server = ModbusTcpServer(device, address=(address, modbus_port))
    await server.serve_forever(background=True)
    inner, outer = pair_of_terminals()
    bits, registers = (
        [SimData(address=0, count=100, values=value, datatype=datatype)]
        for value, datatype in ((False, DataType.BITS), (0, DataType.REGISTERS))
    )
    unit = SimDevice(id=UNIT, simdata=(bits, bits, registers, registers))
    line = ModbusSerialServer(unit, port=inner, baudrate=19200)
    await line.serve_forever(background=True)
    await asyncio.start_server(lambda r, w: control(server, line, outer, r, w), address, control_port)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
