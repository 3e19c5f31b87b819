-- Records what a process has observed of a host; see observe.lua.
--
-- KEYS[1]  imagefleet:host:HOST     hash: the state of the host
-- ARGV     host, holder, good answers, their mean latency in seconds, timeouts after an answer had begun, 1 if refused,
--          the requested wait in seconds (empty for none), 1 if unreachable, 1 if the limit and rests may change,
--          the channel on which rests are published
--
-- Cost: O(good answers), which is at most a few hundred.
-- Returns the seconds until the host's rest ends (0 if it does not rest), and 1 if the host is given up.

key, holder = ARGV[1], ARGV[2]
ok, latency, slow = number(ARGV[3]), number(ARGV[4]), number(ARGV[5])
refused, retry_after, unreachable = ARGV[6] == '1', tonumber(ARGV[7]), ARGV[8] == '1'
adaptive, channel = ARGV[9] == '1', ARGV[10]
now = read_clock()
host, resting = read_host(KEYS[1], now)
observe()
return {seconds(resting), host.given_up == '1' and 1 or 0}
