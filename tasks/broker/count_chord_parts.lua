-- Counts parts of one chord. It leaves the same data as Celery's CHORD_PART_RETURN_LUA, which counts one part. It calls
-- only commands that Celery's script calls too, because a Redis server may forbid all other commands.
--
-- KEYS  the results of get_key_for_group for the chord's group:
--   1  .j   zset: the parts, by their index in the header
--   2  .t   string: a number to add to the size; may be absent
--   3  .s   string: the chord's number of parts
--   4  .d   set: the counted parts, as "task id:index"
--   5      the group's own key
--   6  .c   string: the claim of the process that starts the body, or "done" once it is started
-- ARGV
--   1  seconds until keys 1-4 expire; 0 keeps their expiry
--   2  seconds until key 5 expires; 0 keeps its expiry
--   3  lifetime of the claim to the body, in seconds
--   4  the claim
--   5… three for each part: task id, index, value
-- Returns 1 if the chord is complete and the caller has to start the body, else 0.

local jkey, tkey, skey, dkey, gkey, ckey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local expires, group_expires = tonumber(ARGV[1]), tonumber(ARGV[2])

if redis.call('GET', ckey) == 'done' then
    return 0
end

for i = 5, #ARGV, 3 do
    if redis.call('SADD', dkey, ARGV[i] .. ':' .. ARGV[i + 1]) == 1 then
        redis.call('ZADD', jkey, ARGV[i + 1], ARGV[i + 2])
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
