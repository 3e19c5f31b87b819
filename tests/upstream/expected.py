"""The tests of kombu and Celery that do not pass over ours, and why; docs/upstream-tests.md shows them.

To add one: its name here, under its suite and the reason. A test that is named here has to fail.
"""

from __future__ import annotations

from collections.abc import Mapping

#: By suite, and by the reason: the tests, without the folder ``t/``; without parameters, all of a test's.
FAILING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "kombu-unit": {
        "They watch a BRPOP and how its connection is paused while there is no room. Ours sends none: it waits with "
        "`BLMOVE`, and reads every answer at once.": (
            "unit/transport/test_redis.py::test_PausedBRPOP::test_credit_resumes_pending_brpop_without_sending_another",
            "unit/transport/test_redis.py::test_PausedBRPOP::test_disconnect_clears_pause_before_reconnect",
            "unit/transport/test_redis.py::test_PausedBRPOP::test_full_qos_pauses_before_polling",
            "unit/transport/test_redis.py::test_PausedBRPOP::test_hub_does_not_readd_paused_reader",
            "unit/transport/test_redis.py::test_PausedBRPOP::"
            "test_poll_start_preserves_replacement_before_disconnect_callback",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_handle_event",
        ),
        "Their channel is a mock. Ours asks a channel for its waiters, one for each list, and a mock has none.": (
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_on_poll_start",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_brpop_qos_allow",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_brpop_qos_disallow",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_checks_brpop_health_when_idle",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_listen",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_no_actions",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_receives_ERR",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_receives_multiple",
            "unit/transport/test_redis.py::test_MultiChannelPoller::"
            "test_get_refreshes_binding_expiry_while_qos_disallows",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_runs_after_read_callbacks",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_get_skips_brpop_health_on_events",
        ),
        "Its Redis is a mock that answers `BRPOP`, and knows no `EVAL`. `test_publish_consume`, which does the same "
        "with a real Redis, passes.": ("unit/transport/test_redis.py::test_Redis::test_publish__consume",),
        "Their event loop is a mock that can't say which connections it has. Ours asks, and tells it of each once.": (
            "unit/transport/test_redis.py::test_Channel::test_configurable_health_check",
            "unit/transport/test_redis.py::test_Channel::test_register_with_event_loop",
        ),
        "It allows as many timers as kombu has. Ours has one more, for acknowledgements.": (
            "unit/transport/test_redis.py::test_Channel::test_register_with_event_loop_stores_trefs_on_cycle",
        ),
        "It wants kombu's channel for Sentinel to be made from the channel that stands in for Redis. Ours has a "
        "channel of its own for Sentinel.": (
            "unit/transport/test_redis.py::test_Channel::test_sentinel_inherits_publish_batch_support",
        ),
        "They want at most ten connections to a Sentinel's master. Our pools have no such bound: each slot may need "
        "one.": (
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_single_node",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_with_acl_credentials",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_with_client_name",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_with_password_only",
        ),
    },
    "kombu-integration": {
        "They count on one message for each `drain_events`. Ours delivers all that came with one answer, in the same "
        "order.": (
            "integration/test_redis.py::test_RedisPriority::test_publish_consume",
            "integration/test_redis.py::test_RedisPriority::test_publish_requeue_consume",
            "integration/test_redis.py::test_RedisQueueExpiration::test_expiration_gets_reset_on_get",
        ),
        "They look at the BRPOP that is under way, on the one connection of a channel, and at when it was sent. Ours "
        "has a connection for each list; what they are about is tested in `tests/integration/test_transport.py`.": (
            "integration/test_redis.py::test_event_loop_consumes_after_connection_reconnect[None-BRPOP]",
            "integration/test_redis.py::test_event_loop_consumes_after_connection_reconnect[connection1-BRPOP]",
            "integration/test_redis.py::test_RedisBrpopHealthCheck::"
            "test_half_open_connection_dropped_and_consumption_resumes",
            "integration/test_redis.py::test_RedisBrpopHealthCheck::test_half_open_connection_dropped_by_drain_events",
            "integration/test_redis.py::test_RedisBrpopHealthCheck::test_live_connection_with_unread_reply_not_dropped",
            "integration/test_redis_brpop_qos.py::test_drain_events_resumes_pending_brpop_without_resending",
            "integration/test_redis_brpop_qos.py::test_hub_pauses_pending_brpop_until_ack",
            "integration/test_redis_brpop_qos.py::test_paused_channel_does_not_block_other_channels",
            "integration/test_redis_brpop_qos.py::test_pending_message_survives_cancel_or_close",
        ),
    },
    "celery-unit": {
        "It fails over Celery's own Redis backend as well: `Signature.election` needs a mapping, and that backend "
        "gives none. It passes with results in memory.": ("unit/tasks/test_canvas.py::test_Signature::test_election",),
    },
    "celery-backend": {},
    "celery-integration": {
        "It needs a soft time limit. Celery has none with threads, which are imagefleet's pool; it fails there over "
        "Celery's own as well.": ("integration/test_canvas.py::test_chain::test_chord_soft_timeout_recuperation",),
    },
}
