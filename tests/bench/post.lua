-- For wrk: posts the bodies in the files given as arguments in turn, and prints what came of it as one JSON object.
--
--   wrk ... -s post.lua URL -- CONTENT_TYPE FILE...

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  requests, turn, refused = {}, 0, 0
  for place = 2, #args do
    local file = assert(io.open(args[place], "rb"))
    table.insert(requests, wrk.format("POST", nil, { ["Content-Type"] = args[1] }, file:read("*a")))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status)
  if status ~= 200 then
    refused = refused + 1
  end
end

function done(summary, latency)
  local refusals, errors = 0, summary.errors
  for _, thread in ipairs(threads) do
    refusals = refusals + thread:get("refused")
  end
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "refused": %d, "broken": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, refusals, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99)))
end
