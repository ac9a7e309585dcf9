"""An OPC-UA server of asyncua, and a line protocol by which a story plays its physics.

Usage: opcua_device.py OPCUA_PORT CONTROL_PORT DIRECTORY. Both listen on 127.0.0.1. The server makes its own key in DIRECTORY
and offers None, Basic256Sha256 and Aes256Sha256RsaPss; it lets in anybody without a login, the user `operator` with the
password `secret`, and whoever logs in with the certificate of the key pair `operator.der` and `operator.pem` that it puts into
DIRECTORY, but not with that of `stranger`; it trusts every client's certificate. Nodes, all in namespace 2: s=Temperature (Double), s=Setpoint (Int64),
s=Label (String), s=Running (Boolean); all but Temperature are writable.
Control, one line each: `set NAME VALUE`, `get NAME`, `sessions` (how many are open), `certificates` (how many logins there were
with the operator's).
"""

import asyncio
import pathlib
import sys

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.server.user_managers import UserManager
from asyncua.ua.uaerrors import BadIdentityTokenRejected
from cryptography.x509.oid import ExtendedKeyUsageOID

URI = "urn:isthmus:tests:opcua-device"
SECURITY = [
    ua.SecurityPolicyType.NoSecurity,
    ua.SecurityPolicyType.Basic256Sha256_Sign,
    ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
]
NODES = {
    "Temperature": (21.5, ua.VariantType.Double, False),
    "Setpoint": (20, ua.VariantType.Int64, True),
    "Label": ("press 1", ua.VariantType.String, True),
    "Running": (True, ua.VariantType.Boolean, True),
}
READ = {
    ua.VariantType.Double: float,
    ua.VariantType.Int64: int,
    ua.VariantType.String: str,
    ua.VariantType.Boolean: lambda text: text == "true",
}


class Certificates:
    """Logins with a certificate: the operator's, once asyncua has found that whoever shows it has its key."""

    def __init__(self, server, operator):
        self.n_logins = 0
        self.operator = operator
        self.verify = server.iserver.verify_x509_token
        server.iserver.verify_x509_token = self

    def __call__(self, session, token, signature):
        certificate = self.verify(session, token, signature)
        if certificate != self.operator:
            raise BadIdentityTokenRejected
        self.n_logins += 1
        return certificate


class Users(UserManager):
    """Nobody in particular, or the operator with the right password."""

    def get_user(self, iserver, username=None, password=None, certificate=None):
        if username is None or (username == "operator" and password == "secret"):
            return User(role=UserRole.User, name=username)
        return None


def shown(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


async def control(server, nodes, certificates, reader, writer):
    while line := await reader.readline():
        words = line.decode().rstrip("\n").split(" ", 2)
        answer = "?"
        if words[0] == "set" and len(words) == 3 and words[1] in nodes:
            kind = NODES[words[1]][1]
            await nodes[words[1]].write_value(ua.Variant(READ[kind](words[2]), kind))
            answer = "ok"
        elif words[0] == "get" and len(words) == 2 and words[1] in nodes:
            answer = shown(await nodes[words[1]].read_value())
        elif words[0] == "sessions":
            processors = [client.processor for client in server.bserver.clients]
            answer = str(sum(processor is not None and processor.session is not None for processor in processors))
        elif words[0] == "certificates":
            answer = str(certificates.n_logins)
        writer.write(f"{answer}\n".encode())
        await writer.drain()
    writer.close()


async def key_pair(directory, name, uri):
    key, certificate = directory / f"{name}.pem", directory / f"{name}.der"
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    await setup_self_signed_certificate(key, certificate, uri, "localhost", usages, {})
    return key, certificate


async def main():
    opcua_port, control_port = int(sys.argv[1]), int(sys.argv[2])
    directory = pathlib.Path(sys.argv[3])
    directory.mkdir(parents=True, exist_ok=True)
    key, certificate = await key_pair(directory, "server", URI)
    _, operator = await key_pair(directory, "operator", "urn:isthmus:tests:operator")
    await key_pair(directory, "stranger", "urn:isthmus:tests:stranger")

    server = Server(user_manager=Users())
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{opcua_port}/device")
    server.set_server_name("Isthmus test device")
    await server.set_application_uri(URI)
    server.set_security_policy(SECURITY, permission_ruleset=SimpleRoleRuleset())
    await server.load_certificate(str(certificate))
    await server.load_private_key(str(key))

    namespace = await server.register_namespace("urn:isthmus:tests:press")
    assert namespace == 2, namespace
    folder = await server.nodes.objects.add_folder(ua.NodeId("Device", namespace), f"{namespace}:Device")
    nodes = {}
    for name, (value, kind, is_writable) in NODES.items():
        node = await folder.add_variable(ua.NodeId(name, namespace), f"{namespace}:{name}", value, kind)
        if is_writable:
            await node.set_writable()
        nodes[name] = node

    certificates = Certificates(server, operator.read_bytes())
    async with server:
        await asyncio.start_server(lambda r, w: control(server, nodes, certificates, r, w), "127.0.0.1", control_port)
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
