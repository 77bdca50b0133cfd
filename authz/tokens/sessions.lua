-- Changes the sessions of one user, if nobody else has since they were read, and revokes what goes
-- with it; all in one step. `stream.lua` comes first.
--
-- KEYS[1]  jwt:{B}:feed
-- KEYS[2]  jwt:{B}:tip
-- KEYS[3]  jwt:{B}:sessions:<user>
-- KEYS[4]  jwt:{B}:not-before:<user>
-- KEYS[5…] of the revocations
-- ARGV[1]  how long the stream remembers: milliseconds
-- ARGV[2]  over how many buckets users are spread
-- ARGV[3]  the field `v` of the sessions as it was read: names of the latest changes; '' for none
-- ARGV[4]  the value of KEYS[4] as it was read; '' for none
-- ARGV[5]  the name of this change
-- ARGV[6]  `v` from now on: with that name in it
-- ARGV[7]  when the sessions may go: milliseconds since 1970
-- ARGV[8]  how many of the following are fields
-- ARGV[9…] name and value of each field; '' for one that goes
--          then those of the revocations
--
-- Returns 1: changed. 2: an earlier attempt of the same call has done it already. 0: somebody else
-- has changed something, and nothing was written.
local sessions, cut = KEYS[3], KEYS[4]
local history = redis.call('HGET', sessions, 'v') or ''

if string.find(history, ARGV[5], 1, true) then
  redis.call('HSET', sessions, 'v', history)  -- a write, so that the WAIT after it means something
  return 2
end
if history ~= ARGV[3] or (redis.call('GET', cut) or '') ~= ARGV[4] then
  return 0
end

local fields = tonumber(ARGV[8])
begin(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
revoke_all(5, 9 + fields)
finish()
for n = 9, 8 + fields, 2 do
  if ARGV[n + 1] == '' then
    redis.call('HDEL', sessions, ARGV[n])
  else
    redis.call('HSET', sessions, ARGV[n], ARGV[n + 1])
  end
end
redis.call('HSET', sessions, 'v', ARGV[6])
redis.call('PEXPIREAT', sessions, ARGV[7])
return 1
