-- How a script writes revocations of one bucket: for each its key and its entry in the bucket's
-- stream, then the tip, then one push; all in one step. Scripts begin with this text, and call
-- `begin`, `revoke_all` and `finish`.
--
-- Of each revocation: KEYS  jwt:{B}:blacklist:<user>:<TID>, or two for a user:
--                           jwt:{B}:not-before:<user> and jwt:{B}:sessions:<user>
--                     ARGV  six:
--                           'token' or 'user'
--                           the note, JSON {reason, by, at}
--                           when the key may go: milliseconds since 1970
--                           'user': the cut-off, milliseconds since 1970; 'token': ''
--                           user digest, or '-'
--                           TID, or '' for 'user'
--
-- A token that was there already and is now to be kept for longer has an entry of its own all the
-- same, for those who know it by the hour in which it may be forgotten.
--
-- Entries are numbered without a gap (`seq`). The tip names the last one, the oldest one that the
-- stream has left by its age (`first`), and the epoch: a number drawn anew where there is no tip,
-- so that whoever followed the stream before sees that its history is gone. Where somebody else cut
-- the stream, `first` stays and names an entry that isn't there, until age has caught up with the
-- cut. The number of buckets is there for `authz relay`, which must not mix two of them.
--
-- A repeated call writes the key again with the value it has. The value does not change, but the
-- replication offset does, and that is what makes the WAIT that follows mean something.
--
-- A cut-off is put into the user's sessions as well, where there are any: they live on when its own
-- key is gone, and none that began before it may be refreshed.
local feed, tip, keep, buckets, said_from
local pushed, decided, cut_sessions = {}, {}, {}
local epoch, seq, last, oldest, first, first_before, now

local function text(number)
  return string.format('%.0f', number)
end

-- Number of the stream's oldest entry: '0' for one of before they were numbered, '' without any.
local function oldest_number()
  local entry = redis.call('XRANGE', feed, '-', '+', 'COUNT', 1)[1]
  for n = 1, entry and #entry[2] or 0, 2 do
    if entry[2][n] == 'seq' then
      return entry[2][n + 1]
    end
  end
  return entry and '0' or ''
end

-- Read once, and only where something is to be added.
local function read_tip()
  now = redis.call('TIME')
  local known = redis.call('HMGET', tip, 'epoch', 'seq', 'id', 'first')
  oldest = text(now[1] * 1000 - keep)
  epoch, seq, last, first = known[1], tonumber(known[2]), known[3], known[4]
  first_before = oldest_number()
  if not (epoch and seq and last) then
    local dice = {now[1], now[2], feed, unpack(ARGV, said_from, said_from + 5)}
    epoch = string.sub(redis.sha1hex(table.concat(dice, ' ')), 1, 16)
    seq, last, first = 0, '', nil
  end
end

-- The id of the next entry: of now, and of the last one's millisecond where the clock is behind it,
-- as Redis would choose it; but with dice. For the number after the last is the one that a failover
-- may have lost: whoever knows the lost entry would take this one for it.
local function next_id(...)
  local ms, n = now[1] * 1000 + math.floor(now[2] / 1000), 0
  local last_ms, last_n = string.match(last, '^(%d+)-(%d+)$')
  if last_ms and tonumber(last_ms) >= ms then
    ms, n = tonumber(last_ms), tonumber(last_n) + 1
  end
  local drawn = redis.sha1hex(table.concat({now[1], now[2], ...}, ' '))
  return text(ms) .. '-' .. text(n + tonumber(string.sub(drawn, 1, 7), 16))
end

local function append(kind, note, expires, cut, user, token)
  if not epoch then
    read_tip()
    pushed.epoch, pushed.prev, pushed.entries = epoch, last, {}
  end
  seq = seq + 1
  local number = text(seq)
  local fields = {'seq', number, 'kind', kind, 'user', user, 'token', token, 'before', cut,
    'expires', expires, 'note', note}
  local id = next_id(unpack(fields))
  local added = redis.pcall('XADD', feed, 'MINID', '~', oldest, id, unpack(fields))
  if type(added) == 'table' and added.err then  -- without a tip the stream may be ahead of us
    added = redis.call('XADD', feed, 'MINID', '~', oldest, '*', unpack(fields))
  end
  last = added
  table.insert(pushed.entries, {id = last, seq = number, kind = kind, user = user, token = token,
    before = cut, expires = expires})
end

-- Of a key: its value and when it may go, as an earlier revocation of this call has decided, or as
-- it stands; nothing where there is none.
local function standing(key)
  if decided[key] then
    return unpack(decided[key])
  end
  local value = redis.call('GET', key)
  if value then
    return value, redis.call('PEXPIRETIME', key)
  end
end

local function revoke(key, kind, note, expires_text, cut_text, user, token)
  local expires, cut = tonumber(expires_text), tonumber(cut_text)
  local old, kept_until = standing(key)
  local value, written, effective, prolonged = note, 1, 0, false
  if kind == 'user' then
    local before = old and tonumber(string.match(old, '^%d+'))
    if before and before >= cut then
      value, written, effective = old, 0, before
      expires = math.max(expires, kept_until)
    else
      value, effective = text(cut) .. ' ' .. note, cut
    end
  elseif old then
    value, written = old, 0
    prolonged = expires > kept_until
    expires = math.max(expires, kept_until)
  end
  decided[key] = {value, expires}
  if written == 1 or prolonged then
    append(kind, note, expires_text, cut_text, user, token)
  end
  return {written, text(effective)}
end

-- `keep_for`: how long the stream remembers, in milliseconds. `over`: over how many buckets users
-- are spread.
local function begin(feed_key, tip_key, keep_for, over)
  feed, tip, keep, buckets = feed_key, tip_key, tonumber(keep_for), over
end

-- All revocations from this key and this argument on. Returns {written, effective} for each:
-- written 1 where this call added something, 0 where it was there already; effective: the cut-off
-- now in force (milliseconds), or 0 for 'token'.
local function revoke_all(key, at)
  local results = {}
  said_from = at
  while key <= #KEYS do
    local kind = ARGV[at]
    results[#results + 1] = revoke(KEYS[key], unpack(ARGV, at, at + 5))
    if kind == 'user' then
      key = key + 1
      cut_sessions[KEYS[key]] = results[#results][2]
    end
    key, at = key + 1, at + 6
  end
  return results
end

local function finish()
  if epoch then
    local first_now = oldest_number()
    if not first then
      first = first_before == '' and first_now or '0'  -- what was there may not be all there was
    elseif first_before ~= '' and first_now ~= first_before then
      first = first_now  -- only our own trimming comes between the two
    end
    redis.call('HSET', tip, 'epoch', epoch, 'seq', text(seq), 'id', last, 'first', first,
      'buckets', buckets)
    redis.call('PUBLISH', feed, cjson.encode(pushed))
  end
  for sessions, cut in pairs(cut_sessions) do
    local known = redis.call('HMGET', sessions, 'v', 'cut')
    if known[1] and tonumber(cut) > (tonumber(known[2]) or 0) then
      redis.call('HSET', sessions, 'cut', cut)
    end
  end
  -- Last: where a right is missing above, nothing is rolled back, and a key that stood there
  -- without its entry would make the repetition believe that all had been done.
  for key, one in pairs(decided) do
    redis.call('SET', key, one[1], 'PXAT', text(one[2]))
  end
end
