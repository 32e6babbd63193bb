-- For wrk: sends one request again and again, checks every answer, prints one line of JSON.
--   wrk … -s wrk.lua URL -- BODY_FILE WANTED [HEADER VALUE]…
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.body = file:read("*a")
  file:close()
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  for i = 3, #args, 2 do
    wrk.headers[args[i]] = args[i + 1]
  end
  wanted, wrong = args[2], 0
  bytes = wrk.format()
end

function request()
  return bytes
end

function response(status, headers, body)
  if status ~= 200 or not string.find(body, wanted, 1, true) then
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local all = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  for _, thread in ipairs(threads) do
    all = all + thread:get("wrong")
  end
  local line = '{"requests":%d,"seconds":%.6f,"wrong":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n'
  io.write(string.format(line, summary.requests, summary.duration / 1e6, all,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
