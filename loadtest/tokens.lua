-- wrk: GET / with the tokens of a file in turn, one a line; a JSON object as the last line.
-- wrk -s tokens.lua URL -- FILE KB
-- KB: how many headers of a KiB to add, name, value and all.

local HEADER_BYTES = 1024
local requests = {}
local turn = 0

function init(args)
  local headers = {}
  for number = 1, tonumber(args[2]) do
    local name = string.format("x-filler-%02d", number)
    -- A header is its name, a colon, a space, its value, and the end of the line.
    headers[name] = string.rep("v", HEADER_BYTES - #name - 4)
  end
  for token in io.lines(args[1]) do
    headers.authorization = "Bearer " .. token
    requests[#requests + 1] = wrk.format("GET", "/", headers)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, rates)
  local errors = summary.errors
  local points = {}
  for _, point in ipairs({ 50, 90, 99, 99.9 }) do
    points[#points + 1] = string.format('"p%g": %g', point, latency:percentile(point) / 1000)
  end
  print(string.format(
    '\n{"requests": %d, "seconds": %g, "bad_statuses": %d, "errors": %d, "latency_ms": {%s}}',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    table.concat(points, ", ")
  ))
end
