-- Writes one revocation: its key, its entry in the bucket's stream, and the push, in one step.
--
-- KEYS[1]  jwt:{B}:blacklist:<user>:<TID>  or  jwt:{B}:not-before:<user>
-- KEYS[2]  jwt:{B}:feed
-- ARGV[1]  'token' or 'user'
-- ARGV[2]  the note, JSON {reason, by, at}
-- ARGV[3]  when the key may go: milliseconds since 1970
-- ARGV[4]  'user': the cut-off, milliseconds since 1970; 'token': ''
-- ARGV[5]  user digest, or '-'
-- ARGV[6]  TID, or '' for 'user'
-- ARGV[7]  how long the stream remembers: milliseconds
--
-- Returns {written, effective}: written 1 where this call added something, 0 where it was there
-- already; effective: the cut-off now in force (milliseconds), or 0 for 'token'.
--
-- A repeated call writes the key again with the value it has. The value does not change, but the
-- replication offset does, and that is what makes the WAIT that follows mean something.
local kind, note, expires, cut = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local old = redis.call('GET', KEYS[1])
local value, written, effective = note, 1, 0

if kind == 'user' then
  local before = old and tonumber(string.match(old, '^%d+'))
  if before and before >= cut then
    value, written, effective = old, 0, before
    expires = math.max(expires, redis.call('PEXPIRETIME', KEYS[1]))
  else
    value, effective = string.format('%.0f', cut) .. ' ' .. note, cut
  end
elseif old then
  value, written = old, 0
  expires = math.max(expires, redis.call('PEXPIRETIME', KEYS[1]))
end

redis.call('SET', KEYS[1], value, 'PXAT', string.format('%.0f', expires))

if written == 1 then
  local now = redis.call('TIME')
  local oldest = string.format('%.0f', now[1] * 1000 - tonumber(ARGV[7]))
  local entry = redis.call('XADD', KEYS[2], 'MINID', '~', oldest, '*',
    'kind', kind, 'user', ARGV[5], 'token', ARGV[6],
    'before', ARGV[4], 'expires', ARGV[3], 'note', note)
  redis.call('PUBLISH', KEYS[2],
    cjson.encode({id = entry, kind = kind, user = ARGV[5], token = ARGV[6],
                  before = ARGV[4], expires = ARGV[3]}))
end
return {written, string.format('%.0f', effective)}
