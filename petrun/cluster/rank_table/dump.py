"""Write a RankTable as the JSON text that HCCL reads."""

from __future__ import annotations

import json
from collections.abc import Sequence

from petrun.cluster.rank_table.parse import parse_super_pod
from petrun.cluster.rank_table.table import CARD_ADDRESSES, CARD_TEXTS, SERVER_ADDRESSES, Card, RankTable, Server
from petrun.typing import JsonObject


def table_text(table: RankTable, original: JsonObject | None = None, without: Sequence[str] = ()) -> str:
    """Return the table as HCCL reads it: every scalar a string. Other keys of `original`, from which it was read, stay, but for those of
    `without`.
    """
    content = _left(original or {}, without)
    items = content.get("server_list") or [{}] * len(table.servers)
    tree: JsonObject = {
        **content,
        "version": table.version,
        "status": "completed",
        "server_count": str(len(table.servers)),
        "server_list": [_server_tree(server, item, without) for server, item in zip(table.servers, items, strict=True)],
    }
    given = content.get("super_pod_list")
    if table.super_pods and table.super_pods != tuple(parse_super_pod(pod, 0, []) for pod in given or ()):
        tree["super_pod_list"] = [
            {"super_pod_id": pod.id, "server_list": [{"server_id": one} for one in pod.server_ids]}
            for pod in table.super_pods
        ]
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _server_tree(server: Server, item: JsonObject, without: Sequence[str]) -> JsonObject:
    keys = (*SERVER_ADDRESSES, "host_nic_ip", "hardware_type")
    cards = item.get("device") or [{}] * len(server.cards)
    return {
        "server_id": server.id,
        **{key: value for key, value in item.items() if key != "device"},
        **{key: value for key in keys if (value := getattr(server, key)) is not None},
        "device": [_card_tree(card, _left(one, without)) for card, one in zip(server.cards, cards, strict=True)],
    }


def _card_tree(card: Card, item: JsonObject) -> JsonObject:
    keys = (*CARD_ADDRESSES, *CARD_TEXTS)
    given = {key: value for key in keys if (value := getattr(card, key)) is not None}
    return {**item, **given} if item else {"device_id": str(card.device), **given, "rank_id": str(card.rank)}


def _left(item: JsonObject, without: Sequence[str]) -> JsonObject:
    return {key: value for key, value in item.items() if key not in without}
