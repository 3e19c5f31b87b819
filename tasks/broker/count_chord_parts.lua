-- Counts parts of one chord, as Celery's CHORD_PART_RETURN_LUA counts one, and leaves what that would leave. It calls no
-- command that Celery's does not call: a Redis may allow those alone.
--
-- KEYS  what get_key_for_group gives for the chord's group:
--   1  .j   zset: the parts, by their place in the header
--   2  .t   string: what is to be added to the size; may be absent
--   3  .s   string: how many parts the chord has
--   4  .d   set: what is counted, as "task id:place"
--   5  the group's own
--   6  .c   string: who fires the body, or "done" once that has happened
-- ARGV
--   1  seconds until keys 1-4 go; 0 leaves their life time as it is
--   2  the same for key 5
--   3  seconds for which the body is claimed
--   4  the claim
--   5… a part each three: task id, place, value
-- Returns 1 if the chord is complete and the body is the caller's to fire, else 0.

local jkey, tkey, skey, dkey, gkey, ckey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local expires, group_expires = tonumber(ARGV[1]), tonumber(ARGV[2])

if redis.call('GET', ckey) == 'done' then
    return 0
end

for at = 5, #ARGV, 3 do
    if redis.call('SADD', dkey, ARGV[at] .. ':' .. ARGV[at + 1]) == 1 then
        redis.call('ZADD', jkey, ARGV[at + 1], ARGV[at + 2])
    end
end
if expires > 0 then
    for _, key in ipairs({jkey, tkey, skey, dkey}) do
        redis.call('EXPIRE', key, expires)
    end
    if group_expires > 0 then
        redis.call('EXPIRE', gkey, group_expires)
    end
end

local size = redis.call('GET', skey)
if size and redis.call('ZCOUNT', jkey, '-inf', '+inf') == tonumber(size) + tonumber(redis.call('GET', tkey) or 0) then
    if redis.call('SET', ckey, ARGV[4], 'NX', 'EX', ARGV[3]) then
        return 1
    end
end
return 0
