-- Wireshark's view of connection migration: the options Migrate-Permit and Migrate-Request of docs/protocol.md, and
-- how the segments of one resumption belong together, straight between two ends and through a symmetric proxy.
--
-- Install: copy it to the personal Lua plugins folder (Help > About Wireshark > Folders), or
--     tshark -X lua_script:mobility.lua -r capture.pcapng -Y mobility
--
-- Other experiments that share option kind 253 (TCP Fast Open of old, for one) go to Wireshark's own dissector.

local KIND = 253
local EXPERIMENT = 0x4d49
local VERSION = 1
local PERMIT = 0
local LENGTHS = { [PERMIT] = 11, [1] = 27, [2] = 27, [3] = 27, [4] = 27, [5] = 27, [6] = 27 }
local MSYN, MSYN_ACK, MIGRATE_ACK = 1, 2, 3
local TYPES = {
    [PERMIT] = "Migrate-Permit", [MSYN] = "MSYN", [MSYN_ACK] = "MSYN-ACK", [MIGRATE_ACK] = "Migrate-Ack",
    [4] = "Migrate-Reset", [5] = "Query", [6] = "Answer",
}
local TRANSLATED = { [0] = "no", [1] = "yes" }

local mobility = Proto("mobility", "Connection Migration")
local f = {
    version = ProtoField.uint8("mobility.version", "Version", base.DEC, nil, 0xf0),
    type = ProtoField.uint8("mobility.type", "Type", base.DEC, TYPES, 0x0f),
    direct_port = ProtoField.uint16("mobility.direct_port", "Direct port", base.DEC),
    agent_port = ProtoField.uint16("mobility.agent_port", "Agent port", base.DEC),
    token = ProtoField.uint32("mobility.token", "Token", base.HEX),
    req_no = ProtoField.uint32("mobility.req_no", "ReqNo", base.DEC),
    rcv_nxt = ProtoField.uint32("mobility.rcv_nxt", "RCV.NXT", base.DEC),
    digest = ProtoField.uint16("mobility.digest", "Digest of the direct endpoint", base.HEX),
    mac = ProtoField.bytes("mobility.mac", "MAC"),
    translated = ProtoField.uint8("mobility.translated", "Source translated on the way", base.DEC, TRANSLATED),
    answers = ProtoField.framenum("mobility.answers", "Answers the segment in frame", base.NONE, frametype.RESPONSE),
    answer_time = ProtoField.relative_time("mobility.answer_time", "Time since that segment"),
    through_proxy = ProtoField.bool("mobility.through_proxy", "Answered by a symmetric proxy"),
}
mobility.fields = f

local e = {
    version = ProtoExpert.new("mobility.unknown_version", "Another version of the protocol",
        expert.group.UNDECODED, expert.severity.WARN),
    malformed = ProtoExpert.new("mobility.malformed", "The option has not the length of its type",
        expert.group.MALFORMED, expert.severity.ERROR),
    place = ProtoExpert.new("mobility.not_first", "A Migrate-Request that is not its segment's first option",
        expert.group.PROTOCOL, expert.severity.WARN),
}
mobility.experts = { e.version, e.malformed, e.place }

local tcp_seq = Field.new("tcp.seq_raw")
local tcp_ack = Field.new("tcp.ack_raw")
local tcp_source = Field.new("tcp.srcport")
local tcp_target = Field.new("tcp.dstport")
local ip_source, ip_target = Field.new("ip.src"), Field.new("ip.dst")
local ipv6_source, ipv6_target = Field.new("ipv6.src"), Field.new("ipv6.dst")

-- What a first pass has found, by frame: which frame a segment answers, and whether a proxy answered.
-- An MSYN and an MSYN-ACK are remembered by their way, and by the acknowledgement number that answers them.
local asked, links

function mobility.init()
    asked, links = {}, {}
end

-- The last of a field's values in this frame: that of the innermost header.
local function last(field)
    local values = { field() }
    return values[#values]
end

local function source_and_target()
    if ip_source() then
        return last(ip_source), last(ip_target)
    end
    return last(ipv6_source), last(ipv6_target)
end

-- SipHash-2-4 under a key of zero bytes: the lower 16 bits.
local function digest_of(message)
    local function word(text, at, count)
        local low, high = 0, 0
        for i = count, 1, -1 do
            local byte = text:byte(at + i - 1)
            if i > 4 then high = high * 256 + byte else low = low * 256 + byte end
        end
        return low, high
    end
    local v0, v1 = UInt64(0x70736575, 0x736f6d65), UInt64(0x6e646f6d, 0x646f7261)
    local v2, v3 = UInt64(0x6e657261, 0x6c796765), UInt64(0x79746573, 0x74656462)
    local function round()
        v0 = v0 + v1; v1 = v1:rol(13):bxor(v0); v0 = v0:rol(32)
        v2 = v2 + v3; v3 = v3:rol(16):bxor(v2)
        v0 = v0 + v3; v3 = v3:rol(21):bxor(v0)
        v2 = v2 + v1; v1 = v1:rol(17):bxor(v2); v2 = v2:rol(32)
    end
    local function take(low, high)
        local m = UInt64(low, high)
        v3 = v3:bxor(m)
        round(); round()
        v0 = v0:bxor(m)
    end
    local whole = math.floor(#message / 8) * 8
    for at = 1, whole, 8 do
        take(word(message, at, 8))
    end
    local low, high = word(message, whole + 1, #message - whole)
    take(low, high + (#message % 256) * 2 ^ 24)
    v2 = v2:bxor(UInt64(0xff, 0))
    round(); round(); round(); round()
    local hash = v0:bxor(v1):bxor(v2):bxor(v3)
    return bit32.band(hash:lower(), 0xffff)
end

-- What the sender would have put there if nothing translated its endpoint.
local function digest_of_what_is_seen()
    local address = source_and_target().range:bytes():raw()
    if #address == 4 then
        address = ("\0"):rep(10) .. "\255\255" .. address
    end
    return digest_of(address .. last(tcp_source).range:bytes():raw() .. last(tcp_seq).range:bytes():raw())
end

-- A segment's way and a number, as the key of a table.
local function way(back, number)
    local source, target = source_and_target()
    local from, to = tostring(source) .. "|" .. tostring(last(tcp_source)), tostring(target) .. "|" .. tostring(last(tcp_target))
    if back then
        from, to = to, from
    end
    return from .. ">" .. to .. "#" .. number
end

-- A time in seconds as the value of a field.
local function seconds(time)
    local whole = math.floor(time)
    return NSTime(whole, math.floor((time - whole) * 1e9))
end

-- Finds out which segment this one answers, on the first pass, and remembers it for those that come.
local function relate(pinfo, type, req_no)
    if pinfo.visited or type < MSYN or type > MIGRATE_ACK then
        return
    end
    local seq, ack = last(tcp_seq).value, last(tcp_ack).value
    if type ~= MSYN then
        local question = asked[type .. way(true, ack)]
        if question then
            links[pinfo.number] = {
                frame = question.frame,
                time = seconds(pinfo.abs_ts - question.time),
                -- An end repeats the number of the MSYN that it answers; a proxy tells each end the other's.
                proxy = type == MSYN_ACK and question.req_no ~= req_no,
            }
        end
    end
    if type ~= MIGRATE_ACK then
        local key = (type + 1) .. way(false, (seq + 1) % 2 ^ 32)
        asked[key] = asked[key] or { frame = pinfo.number, time = pinfo.abs_ts, req_no = req_no }
    end
end

local function add_permit(buffer, tree)
    tree:add(f.direct_port, buffer(5, 2))
    tree:add(f.agent_port, buffer(7, 2))
    tree:add(f.digest, buffer(9, 2))
    return ("direct port %d, agent port %d"):format(buffer(5, 2):uint(), buffer(7, 2):uint()), buffer(9, 2)
end

local function add_request(buffer, tree)
    tree:add(f.token, buffer(5, 4))
    tree:add(f.req_no, buffer(9, 4))
    tree:add(f.rcv_nxt, buffer(13, 4))
    tree:add(f.digest, buffer(17, 2))
    tree:add(f.mac, buffer(19, 8))
    return ("token 0x%08x, ReqNo %d"):format(buffer(5, 4):uint(), buffer(9, 4):uint()), buffer(17, 2)
end

-- Wireshark's own dissector of the experimental kind.
local options = DissectorTable.get("tcp.option")
local others = options:get_dissector(KIND)

function mobility.dissector(buffer, pinfo, root)
    if buffer:len() < 4 or buffer(2, 2):uint() ~= EXPERIMENT then
        return others and others:call(buffer, pinfo, root) or 0
    end
    local tree = root:add(mobility, buffer())
    if buffer:len() < 5 then
        tree:add_proto_expert_info(e.malformed)
        return buffer:len()
    end
    local version, type = bit32.rshift(buffer(4, 1):uint(), 4), bit32.band(buffer(4, 1):uint(), 0x0f)
    tree:add(f.version, buffer(4, 1))
    tree:add(f.type, buffer(4, 1))
    if version ~= VERSION then
        tree:add_proto_expert_info(e.version)
        return buffer:len()
    end
    if buffer:len() ~= LENGTHS[type] then
        tree:add_proto_expert_info(e.malformed)
        return buffer:len()
    end
    local words, digest = (type == PERMIT and add_permit or add_request)(buffer, tree)
    tree:append_text((": %s, %s"):format(TYPES[type], words))
    if digest:uint() ~= 0 then
        local translated = digest:uint() ~= digest_of_what_is_seen() and 1 or 0
        tree:add(f.translated, translated):set_generated()
    end
    if type ~= PERMIT then
        relate(pinfo, type, buffer(9, 4):uint())
        local link = links[pinfo.number]
        if link then
            tree:add(f.answers, link.frame):set_generated()
            tree:add(f.answer_time, link.time):set_generated()
            if link.proxy then
                tree:add(f.through_proxy, true):set_generated()
            end
        end
    end
    pinfo.cols.info:append((" [%s %s%s]"):format(TYPES[type], words,
        links[pinfo.number] and links[pinfo.number].proxy and ", through a proxy" or ""))
    return buffer:len()
end

options:set(KIND, mobility)
