// One AXI master that reads as fast as the memory lets it: `bursts` reads of `beats`, in sequence or at random addresses of
// `channels` channels of 4 MiB. Prints the cycles from the first address to the last beat.
module memory_bench (input clk);
    reg [2:0] started = 0;
    wire rst = !started[2];

    integer beats, bursts, channels, sequential, latency, rate, refresh_interval, refresh, issue, outstanding;
    integer asked = 0, done = 0, cycle = 0;
    reg [39:0] araddr = 0;
    wire arready, rvalid, rlast;
    wire [511:0] rdata;
    wire [1:0] rid, rresp, bid, bresp;
    wire awready, wready, bvalid;
    reg [31:0] random = 1;
    wire [31:0] next_random = {random[30:0], random[31] ^ random[21] ^ random[1] ^ random[0]};
    wire [39:0] anywhere = (({8'b0, next_random} % channels) << 22) + ({18'b0, next_random[31:10]} & 40'h3ff000);

    axi_memory #(.DATA(512), .WORDS(64)) memory (
        .clk(clk), .rst(rst), .latency(latency[15:0]), .rate(rate[8:0]), .stall(8'd0), .seed(32'd1), .limit(40'd4096),
        .load(1'b0), .dump(1'b0), .renew(1'b0), .refresh_interval(refresh_interval[15:0]), .refresh(refresh[15:0]), .refresh_together(1'b1), .turnaround(8'd0), .issue(issue[7:0]),
        .outstanding(outstanding[6:0]), .channel(6'd22), .reorder(1'b0), .bad_read(32'd0),
        .bad_write(32'd0), .bad_kind(4'd0), .araddr(araddr), .arlen(beats[7:0] - 8'd1), .arid(2'd0), .arsize(3'd6), .arburst(2'd1),
        .arvalid(!rst && asked < bursts), .arready(arready), .rdata(rdata), .rid(rid), .rresp(rresp), .rlast(rlast),
        .rvalid(rvalid), .rready(1'b1), .awaddr(40'd0), .awlen(8'd0), .awid(2'd0), .awsize(3'd6), .awburst(2'd1),
        .awvalid(1'b0), .awready(awready), .wdata(512'd0), .wstrb(64'd0), .wlast(1'b0), .wvalid(1'b0), .wready(wready),
        .bid(bid), .bresp(bresp), .bvalid(bvalid), .bready(1'b1)
    );

    initial begin
        if (!$value$plusargs("beats=%d", beats) || !$value$plusargs("bursts=%d", bursts)
            || !$value$plusargs("channels=%d", channels) || !$value$plusargs("sequential=%d", sequential)
            || !$value$plusargs("latency=%d", latency) || !$value$plusargs("rate=%d", rate)
            || !$value$plusargs("refresh_interval=%d", refresh_interval) || !$value$plusargs("refresh=%d", refresh)
            || !$value$plusargs("issue=%d", issue) || !$value$plusargs("outstanding=%d", outstanding)) $fatal(1, "an argument is missing");
    end
    always @(posedge clk) started <= {started[1:0], 1'b1};
    always @(posedge clk) if (!rst) begin
        cycle <= cycle + 1;
        random <= {next_random[15:0], next_random[31:16]} ^ 32'h9e3779b9;
        if (asked < bursts && arready) begin
            asked <= asked + 1;
            araddr <= sequential != 0 ? (araddr + (beats << 6)) & 40'h3fffff : anywhere;
        end
        if (rvalid && rlast) done <= done + 1;
        if (done == bursts) begin
            $display("cycles %0d", cycle);
            $finish;
        end
    end
endmodule
