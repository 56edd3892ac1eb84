"""Convert rank tables of the format before 1.0, with group_list and no version, into version 1.0. HCCL still reads them.

    {"status": "completed", "group_count": "1",
     "group_list": [{"group_name": "worker", "instance_count": "1", "device_count": "2",
                     "instance_list": [{"pod_name": "worker-0", "server_id": "10.0.0.1",
                                        "devices": [{"device_id": "0", "device_ip": "192.168.100.101"}, ...]}]}]}

Such a table has no ranks: HCCL orders the devices by server_id, as text, and device_id, and a process names its pod. With "deploy_mode"
an instance is one device instead, with its rank_id.

Source: topoinfo_ranktableStandard.cc of hcomm.
"""

from __future__ import annotations

from petrun.cluster.rank_table.parse import CheckedObject, is_whole
from petrun.cluster.rank_table.table import Problem
from petrun.typing import JsonObject

_PARSER = "HCCL topoinfo_ranktableStandard.cc"
_DEVICES = 8
"""The most devices of a server of any product. Source: GetCloudDevList."""
_CARRIED = ("status", "group_list", "instance_list", "devices", "server_id", "rank_id", "device_id", "device_ip")


def is_grouped(content: JsonObject) -> bool:
    """Return whether HCCL reads its group_list."""
    return "version" not in content and "group_list" in content


def from_groups(content: JsonObject) -> tuple[JsonObject | None, list[Problem], tuple[str, ...]]:
    """Return the table in version 1.0, its problems, and the keys that 1.0 cannot hold. The table is None where too much is wrong."""
    top = CheckedObject(content, "")
    laboratory = "deploy_mode" in content
    groups = top.objects("group_list")
    _count(top, "group_count", len(groups))
    if laboratory and content.get("para_plane_nic_location") != "device":
        top.wrong("para_plane_nic_location", 'para_plane_nic_location must be "device"')
    servers: dict[str, list[JsonObject]] = {}
    for position, group in enumerate(groups):
        fields = CheckedObject(group, f"group_list[{position}]", top.problems)
        fields.text("group_name", needed=True)
        instances = fields.objects("instance_list")
        _count(fields, "instance_count", len(instances))
        lists = [one.get("devices") for one in instances]
        _count(
            fields, "device_num" if laboratory else "device_count", sum(len(d) for d in lists if isinstance(d, list))
        )
        for index, instance in enumerate(instances):
            _instance(instance, f"{fields.where}, instance_list[{index}]", top.problems, servers)
    # Problems of keys that only this format has are errors as well, because HCCL reads them here.
    problems = [Problem(where=problem.where, text=problem.text, fatal=True, source=_PARSER) for problem in top.problems]
    if problems or not servers:
        return None, problems or [Problem(where="group_list", text="has no devices", source=_PARSER)], ()
    if not laboratory:
        _number(servers)
    server_list = [{"server_id": name, "device": devices} for name, devices in servers.items()]
    made = {
        "version": "1.0",
        "status": content.get("status"),
        "server_count": str(len(servers)),
        "server_list": server_list,
    }
    return made, [], tuple(_left_out(content, groups))


def _count(fields: CheckedObject, key: str, found: int) -> None:
    count = fields.whole(key)
    if count is not None and count != found:
        fields.wrong(key, f"{key} is {count}, and there are {found}")


def _instance(instance: JsonObject, where: str, problems: list[Problem], servers: dict[str, list[JsonObject]]) -> None:
    """Add the devices of an instance to those of its server."""
    fields = CheckedObject(instance, where, problems)
    laboratory = "pod_name" not in instance
    name = fields.text("server_id", needed=True)
    rank = fields.text("rank_id" if laboratory else "pod_name", needed=True)
    devices = fields.objects("devices")
    if laboratory and len(devices) > 1:
        fields.wrong("devices", f"devices has {len(devices)}: an instance with a rank_id is one device")
    for device in devices:
        if not (isinstance(device.get("device_id"), str) and is_whole(device["device_id"])):
            fields.wrong("device_id", "device_id must be a whole number from 0, as a string")
        elif not laboratory and int(device["device_id"]) >= _DEVICES:
            fields.wrong("device_id", f"device_id {device['device_id']}: a server has devices 0 to {_DEVICES - 1} here")
    if name is not None and rank is not None:
        own = {"rank_id": rank} if laboratory else {}
        servers.setdefault(name, []).extend({**device, **own} for device in devices)


def _number(servers: dict[str, list[JsonObject]]) -> None:
    """Number the ranks as HCCL does (GetSortClouldRankList), and bring servers and devices into that order."""
    ordered = [(name, sorted(servers[name], key=lambda device: int(device["device_id"]))) for name in sorted(servers)]
    servers.clear()
    servers.update(ordered)
    for rank, device in enumerate(device for devices in servers.values() for device in devices):
        device["rank_id"] = str(rank)


def _left_out(content: JsonObject, groups: list[JsonObject]) -> list[str]:
    """Return the keys of the table, its groups and its instances that version 1.0 cannot hold; those of devices are kept."""
    instances = [one for group in groups for one in group["instance_list"]]
    keys = dict.fromkeys(key for item in (content, *groups, *instances) for key in item)
    return [key for key in keys if key not in _CARRIED]
