-- Says to all who follow a bucket that signing keys have changed in a way that can't wait: leaves
-- another number than before.
--
-- KEYS[1] jwt:{B}:tip
-- ARGV[1] the number to leave there: milliseconds since 1970
-- ARGV[2] 'new': whatever number is there, leave a higher one. 'known': leave the higher of both,
--         for those who copy what was said elsewhere and may do so in a circle
--
-- A number of the future, by more than a day, was made up, or is of a clock that is wrong by far: it
-- doesn't count, or all that come after it would be lower.
--
-- Returns the number that is there now. It is written in any case, so that the WAIT that follows
-- means something.
local DAY = 86400000

local now = redis.call('TIME')[1] * 1000
local text = redis.call('HMGET', KEYS[1], 'keys')[1] or ''
local current = string.match(text, '^%d+$') and tonumber(text) or 0
if current > now + DAY then
  current = 0
end
local number = math.min(tonumber(ARGV[1]), now + DAY)
if ARGV[2] == 'new' and number <= current then
  number = current + 1
end
number = string.format('%.0f', math.max(number, current))
redis.call('HSET', KEYS[1], 'keys', number)
return number
