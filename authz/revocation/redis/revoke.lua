-- Writes revocations of one bucket; `stream.lua` comes first.
--
-- KEYS[1]  jwt:{B}:feed
-- KEYS[2]  jwt:{B}:tip
-- KEYS[3…] of the revocations
-- ARGV[1]  how long the stream remembers: milliseconds
-- ARGV[2]  over how many buckets users are spread
-- ARGV[3…] of the revocations
--
-- Returns what `revoke_all` does.
begin(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
local results = revoke_all(3, 3)
finish()
return results
