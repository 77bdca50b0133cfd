-- Says to all who follow a bucket that signing keys have changed in a way that can't wait.
--
-- KEYS[1] jwt:{B}:tip
-- ARGV[1] the number to leave there: milliseconds since 1970
-- ARGV[2] 'new': whatever number is there, leave a higher one. 'known': leave the higher of both,
--         for those who copy what was said elsewhere and may do so in a circle
--
-- Returns the number that is there now. It is written in any case, so that the WAIT that follows
-- means something.
local current = tonumber(redis.call('HMGET', KEYS[1], 'keys')[1] or '') or 0
local number = tonumber(ARGV[1])
if ARGV[2] == 'new' and number <= current then
  number = current + 1
end
number = string.format('%.0f', math.max(number, current))
redis.call('HSET', KEYS[1], 'keys', number)
return number
