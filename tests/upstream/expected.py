"""The tests of kombu and Celery that fail over our code, and the reasons.

docs/upstream-tests.md shows them. To add a test, add its name here, under its suite and the reason of the failure.
Every test named here must fail.
"""

from __future__ import annotations

from collections.abc import Mapping

#: The tests by suite and reason. Their names are without the folder ``t/``. A test's name without parameters stands for
#: the test with all parameters.
FAILING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "kombu-unit": {
        "They check that the connection of a BRPOP is paused while the prefetch is full. imagefleet's transport "
        "sends no BRPOP. It waits with `BLMOVE`, and reads every answer at once.": (
            "unit/transport/test_redis.py::test_PausedBRPOP::test_credit_resumes_pending_brpop_without_sending_another",
            "unit/transport/test_redis.py::test_PausedBRPOP::test_disconnect_clears_pause_before_reconnect",
            "unit/transport/test_redis.py::test_PausedBRPOP::test_full_qos_pauses_before_polling",
            "unit/transport/test_redis.py::test_PausedBRPOP::test_hub_does_not_readd_paused_reader",
            "unit/transport/test_redis.py::test_PausedBRPOP::"
            "test_poll_start_preserves_replacement_before_disconnect_callback",
            "unit/transport/test_redis.py::test_MultiChannelPoller::test_handle_event",
        ),
        "Their channel is a mock without waiters. imagefleet's poller needs one waiter of the channel for each list.": (
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
        "Its Redis is a mock with `BRPOP` but without `EVAL`. `test_publish_consume` does the same with a real Redis, "
        "and passes.": ("unit/transport/test_redis.py::test_Redis::test_publish__consume",),
        "Their event loop is a mock that can't list its connections. Our code needs this list, to add each once.": (
            "unit/transport/test_redis.py::test_Channel::test_configurable_health_check",
            "unit/transport/test_redis.py::test_Channel::test_register_with_event_loop",
        ),
        "It allows only kombu's number of timers. imagefleet's transport has one more, for acknowledgements.": (
            "unit/transport/test_redis.py::test_Channel::test_register_with_event_loop_stores_trefs_on_cycle",
        ),
        "It requires kombu's Sentinel channel to inherit from the replaced Redis channel. imagefleet has its own "
        "channel for Sentinel.": (
            "unit/transport/test_redis.py::test_Channel::test_sentinel_inherits_publish_batch_support",
        ),
        "They require at most ten connections to a Sentinel's master. imagefleet's pools have no such limit, because "
        "each slot may need a connection.": (
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_single_node",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_with_acl_credentials",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_with_client_name",
            "unit/transport/test_redis.py::test_RedisSentinel::test_getting_master_from_sentinel_with_password_only",
        ),
    },
    "kombu-integration": {
        "They expect one message for each `drain_events`. Our code delivers all messages of an answer, in order.": (
            "integration/test_redis.py::test_RedisPriority::test_publish_consume",
            "integration/test_redis.py::test_RedisPriority::test_publish_requeue_consume",
            "integration/test_redis.py::test_RedisQueueExpiration::test_expiration_gets_reset_on_get",
        ),
        "They inspect the pending BRPOP on a channel's only connection, and the time it was sent. imagefleet has a "
        "connection for each list. `tests/integration/test_transport.py` tests the same behaviour.": (
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
        "It also fails with Celery's own Redis backend: `Signature.election` needs a mapping, and that backend "
        "returns no mapping. It passes with results in memory.": (
            "unit/tasks/test_canvas.py::test_Signature::test_election",
        ),
    },
    "celery-backend": {},
    "celery-integration": {
        "It needs a soft time limit, which Celery lacks with threads, imagefleet's pool. It fails there with Celery's "
        "own code as well.": ("integration/test_canvas.py::test_chain::test_chord_soft_timeout_recuperation",),
    },
}
