-- Writes the record of a client, unless it has changed since it was read.
-- KEYS: the client's key. ARGV: the record as it was read, empty where there was none; the new one.
-- Returns 1, also where it was written by an attempt before; 0 where it has changed.

local current = redis.call('GET', KEYS[1]) or ''
if current ~= ARGV[1] and current ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
