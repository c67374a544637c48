-- Merges sections into values, and sets marks; runs on the server, so that nothing comes between test and change.
-- Values and sections are those of framing.py. Sequences and names are compared byte by byte: numbers here are
-- doubles, and `<` on strings follows the server's locale.
--
-- KEYS: the generation mark; the given marks; the marks to set; of each write its header and its chunks.
-- ARGV: the generation; the number of given marks; their values; the number of marks to set; their values ("=" before
-- a value, "-" for none); a byte for each write, its bits being: 1 expects no section, 2 expects a sequence, 4 has a
-- lifetime, 8 drops writers, 16 has chunks; then of each write the header's value with this section alone, the
-- sequence it expects, the lifetime in milliseconds, the number of writers to drop and their names, the number of
-- chunks and of each the value with this section alone, or nothing.
--
-- Returns "G" where the generation is another, "M" where a mark is not as given, else "=" and a letter for each write:
-- A applied, I ignored, R refused.

local KEYS, ARGV = KEYS, ARGV
local byte, sub, call, concat = string.byte, string.sub, redis.call, table.concat
local NEVER = '\127\255\255\255\255\255\255\255'
local version

-- Whether sequence `a` is less than or equal to `b`.
local function reaches(b, a)
  if a == b then return true end
  local a1, a2, a3, a4, a5, a6, a7, a8 = byte(a, 1, 8)
  local b1, b2, b3, b4, b5, b6, b7, b8 = byte(b, 1, 8)
  if a1 ~= b1 then return a1 < b1 end
  if a2 ~= b2 then return a2 < b2 end
  if a3 ~= b3 then return a3 < b3 end
  if a4 ~= b4 then return a4 < b4 end
  if a5 ~= b5 then return a5 < b5 end
  if a6 ~= b6 then return a6 < b6 end
  if a7 ~= b7 then return a7 < b7 end
  return a8 < b8
end

-- Whether name `a` comes before `b`.
local function before(a, b)
  for at = 1, #a do
    local x, y = byte(a, at), byte(b, at)
    if x ~= y then return y ~= nil and x < y end
  end
  return #a < #b
end

-- Returns what a value holds beside a writer's section and the dropped ones, before and after the place of that
-- section (nil: nothing), and the section's sequence.
local function take_apart(key, value, writer, drop)
  if byte(value, 1) ~= version then
    error('FSVERSION ' .. byte(value, 1) .. ' of ' .. version)
  end
  local at, size, sequence = 2, #value, NEVER
  local head, tail
  while at <= size do
    local n1, n2 = byte(value, at, at + 1)
    local past = at + 2 + n1 * 256 + n2
    local name = sub(value, at + 2, past - 1)
    local s1, s2, s3, s4 = byte(value, past + 8, past + 11)
    local stop = past + 12 + ((s1 * 256 + s2) * 256 + s3) * 256 + s4
    if name == writer then
      sequence = sub(value, past, past + 7)
    elseif not (drop and drop[name]) then
      local part = sub(value, at, stop - 1)
      if before(name, writer) then
        head = head and head .. part or part
      else
        tail = tail and tail .. part or part
      end
    end
    at = stop
  end
  return head, tail, sequence
end

-- Writes a key that exists: never for a shorter time than others need it.
local function replace(key, value, shared, lifetime)
  if not lifetime then
    call('SET', key, value)
    return
  end
  local left = call('PTTL', key)
  if left > tonumber(lifetime) or (left == -1 and shared) then
    call('SET', key, value, 'KEEPTTL')
  else
    call('SET', key, value, 'PX', lifetime)
  end
end

-- Puts together and writes what `take_apart` left and a section's value ("": none).
local function join(key, own, head, tail, lifetime)
  if not head and not tail then
    if own == '' then call('DEL', key) else replace(key, own, false, lifetime) end
    return
  end
  local first = string.char(version)
  replace(key, concat({first, head or '', sub(own, 2), tail or ''}), true, lifetime)
end

local function create(key, value, lifetime)
  if lifetime then return call('SET', key, value, 'NX', 'PX', lifetime) end
  return call('SET', key, value, 'NX')
end

local function writer_of(value)
  local n1, n2 = byte(value, 2, 3)
  local past = 4 + n1 * 256 + n2
  return sub(value, 4, past - 1), sub(value, past, past + 7)
end

local function is_as_given(key, given)
  local value = call('GET', key)
  if value then return given == '=' .. value end
  return given == '-'
end

if call('GET', KEYS[1]) ~= ARGV[1] then return 'G' end
local key_at, at = 2, 3
for _ = 1, tonumber(ARGV[2]) do
  if not is_as_given(KEYS[key_at], ARGV[at]) then return 'M' end
  key_at, at = key_at + 1, at + 1
end
local marks_at, mark_values_at, marks = key_at, at + 1, tonumber(ARGV[at])
key_at, at = key_at + marks, at + 1 + marks
local plan = ARGV[at]
at = at + 1

local outcomes = {'='}
local refused, fresh = false, true
for place = 1, #plan do
  local code, key, own = byte(plan, place), KEYS[key_at], ARGV[at]
  key_at, at = key_at + 1, at + 1
  local expected, lifetime, drop, chunks = nil, nil, nil, 0
  if code ~= 0 then
    if code % 2 == 1 then expected = NEVER end
    if code % 4 >= 2 then expected, at = ARGV[at], at + 1 end
    if code % 8 >= 4 then lifetime, at = ARGV[at], at + 1 end
    if code % 16 >= 8 then
      drop = {}
      local last = at + tonumber(ARGV[at])
      for name_at = at + 1, last do drop[ARGV[name_at]] = true end
      at = last + 1
    end
    if code >= 16 then chunks, at = tonumber(ARGV[at]), at + 1 end
  end
  version = byte(own, 1)
  local outcome = 'A'
  if code % 4 >= 2 or not (fresh and create(key, own, lifetime)) then
    local value = call('GET', key)
    fresh = not value
    if value then
      local writer, sequence = writer_of(own)
      local head, tail, stored = take_apart(key, value, writer, drop)
      if reaches(stored, sequence) then
        outcome = 'I'
      elseif expected and expected ~= stored then
        outcome = 'R'
      else
        join(key, own, head, tail, lifetime)
      end
    elseif expected and expected ~= NEVER then
      outcome = 'R'
    else
      create(key, own, lifetime)
    end
  end
  if chunks > 0 then
    if outcome == 'A' then
      for chunk = 0, chunks - 1 do
        local chunk_key, part = KEYS[key_at + chunk], ARGV[at + chunk]
        local value = call('GET', chunk_key)
        if value then
          local head, tail = take_apart(chunk_key, value, (writer_of(own)), drop)
          join(chunk_key, part, head, tail, lifetime)
        elseif part ~= '' then
          create(chunk_key, part, lifetime)
        end
      end
    end
    key_at, at = key_at + chunks, at + chunks
  end
  refused = refused or outcome == 'R'
  outcomes[place + 1] = outcome
end

if not refused then
  for place = 0, marks - 1 do
    local value = ARGV[mark_values_at + place]
    if value == '-' then
      call('DEL', KEYS[marks_at + place])
    else
      call('SET', KEYS[marks_at + place], sub(value, 2))
    end
  end
end
return concat(outcomes)
